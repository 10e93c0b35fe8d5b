"""Answers in passages: against DPR's own algorithm, and where this one is meant to differ."""

from __future__ import annotations

import unicodedata

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from ccp_ray.answers import Answers

# Capitals and accents, digits, punctuation, a Bengali syllable with its vowel sign, a joiner that nobody sees.
LETTERS = ["a", "B", "\u00e9", "e\u0301", "1", "2", ".", "-", "_", "%", " ", "  ", "\n", "\u0995", "\u09bf", "\u200d"]
TEXT = st.lists(st.sampled_from(LETTERS), max_size=12).map("".join)
ANSWER = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3).map("".join)


def dpr_tokens(text: str) -> list[str]:
    """`SimpleTokenizer(...).tokenize(_normalize(text)).words(uncased=True)` of facebookresearch/DPR."""
    found = regex.findall(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", unicodedata.normalize("NFD", text))
    return [word.lower() for word in found]


def dpr_has_answer(answers: list[str], text: str) -> bool:
    words = dpr_tokens(text)
    for span in filter(None, map(dpr_tokens, answers)):
        if any(span == words[start : start + len(span)] for start in range(len(words) - len(span) + 1)):
            return True
    return False


@given(st.lists(ANSWER, max_size=2), TEXT)
@example(["a1"], "a1 2")
@example(["1"], "21 12 1")
@example(["\u0995"], "\u0995\u09bf")
@example(["a . B"], "x A.b")
def test_a_text_holds_what_dprs_has_answer_finds(answers: list[str], text: str) -> None:
    assert Answers(answers).holds(text) == dpr_has_answer(answers, text)


@pytest.mark.parametrize(
    ("answer", "text", "holds", "touches"),
    [
        ("Karl  Marx", "it was KARL MARX.", True, True),
        ("U.S.", "in the u. s. then", True, True),
        ("Budapest", "Itt van Budapesten.", False, True),
        ("7", "in 1917", False, True),
        ("\uff11\uff19\uff11\uff17", "in 1917", True, True),  # full width
        ("\u6771\u4eac", "\u3053\u3053\u306f\u6771\u4eac\u3067\u3059", True, True),  # no blanks to tell words by
        ("yes", "yes", False, False),
        ("No", "no", False, False),
        (" ", "a b", False, False),
        ("Marx", "Engels", False, False),
    ],
)
def test_what_holds_and_what_only_touches(answer: str, text: str, holds: bool, touches: bool) -> None:
    found = Answers([answer])
    assert (found.holds(text), found.touches(text)) == (holds, touches)


def test_yes_and_no_are_no_answers_beside_others() -> None:
    assert not Answers(["yes", "NO", ""])
    assert Answers(["yes", "Marx"]).holds("Marx")
