"""R@Nt against the oracle, on texts that try the shortcuts: quotes, boundaries, cuts, late and repeated passages."""

from __future__ import annotations

import nltk
import pytest
import xor_oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray.errors import UsageError
from eval import word_tokens
from eval.word_tokens import Tokenised, WordTokens, tokenise
from eval.xor_measures import Asked, answered, spans

PIECES = [
    *(
        "Paris",
        "the",
        "cannot",
        "gonna",
        "U.S.",
        "don't",
        '"quoted',
        'text"',
        "(1998)",
        "co-op",
        "3,500",
        "end.",
        "Mr.",
    ),
    *(
        "''",
        "``",
        "--",
        "...",
        "\u201cso\u201d",
        "\u00abx\u00bb",
        "a\u00a0b",
        "caf\u00e9",
        "\u6771\u4eac",
        "it's",
        "\n\n",
        "no",
        "AND",
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)
ANSWER = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(" ".join),
    st.text("Parisend.'\" `1998", max_size=6),
    st.sampled_from(["yes", "no", "", "can not", "``", "the ''"]),
)


@settings(max_examples=150)
@given(st.lists(ANSWER, min_size=1, max_size=3), st.lists(TEXT, max_size=9), st.integers(1, 20), st.integers(0, 40))
def test_a_question_is_answered_as_the_official_algorithm_has_it(answers, passages, low, more):
    limits = [low, low + more]
    found = answered({"q": Asked(spans(answers), passages)}, limits, WordTokens())["q"]
    expected = tuple(any(a in xor_oracle.top_tokens(passages, n) for a in spans(answers)) for n in limits)
    assert found == expected


@given(TEXT, st.integers(0, 30))
def test_the_first_tokens_of_a_text(text, count):
    tokens = nltk.word_tokenize(text)
    [found] = tokenise([text])
    assert found == Tokenised(" ".join(tokens), len(tokens))
    assert found.first(count) == " ".join(tokens[:count])
    assert len(tokens) >= len(text.split())


def test_each_distinct_text_is_tokenised_once_and_hopeless_ones_never(monkeypatch):
    seen = []
    plain = nltk.word_tokenize
    monkeypatch.setattr(nltk, "word_tokenize", lambda text: seen.append(text) or plain(text))
    passages = [f"passage {i} of {i % 3} words" for i in range(30)]
    asked = {
        "out": Asked(["nowhere to be seen"], passages),
        "in": Asked(["passage 2"], passages),
        "again": Asked(["passage 2"], passages),
        "apart": Asked(["2 passage"], passages),
    }
    assert answered(asked, [50, 60], WordTokens()) == {
        "out": (False, False), "in": (True, True), "again": (True, True), "apart": (False, False)
    }  # fmt: skip
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(passages[: 60 // 5 + 8])


def test_an_answer_may_end_between_the_limits():
    passages = ["a b c d", "e f g h"]
    found = answered({"q": Asked(["d e"], passages), "r": Asked(["b"], passages)}, [4, 5], WordTokens())
    assert found == {"q": (False, True), "r": (True, True)}


def test_processes_share_the_tokenising(ray_local):
    texts = [f"Mr. Smith said {i} things; {i % 7} were true." for i in range(60)]
    words = WordTokens(alone=10)
    words.add(texts)
    assert [words[text] for text in texts] == tokenise(texts)


def test_without_nltks_model_it_says_how_to_get_it(monkeypatch):
    def missing(text):
        raise LookupError("Resource punkt_tab not found")

    monkeypatch.setattr(nltk, "word_tokenize", missing)
    with pytest.raises(UsageError, match=r"punkt_tab is missing.*python -m nltk.downloader punkt_tab"):
        WordTokens().add(["a"])
    assert word_tokens._carried(["a"])[1].startswith("UsageError:")
