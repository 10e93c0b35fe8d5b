"""Mr.TyDi: trec_eval's numbers on random runs, the files as they are distributed, and bad input."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import pytrec_eval
import trec_oracle
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.errors import DataError, UsageError
from eval.evaluate import EvaluateConfig, load_any
from eval.mrtydi import MrTydiConfig, load_mrtydi
from eval.ranked import Hit
from eval.run_reader import trec_order
from eval.trec_measures import trec_scores

QUESTIONS = st.sampled_from([f"q{i}" for i in range(5)])
DOCS = st.sampled_from([f"d{i}" for i in range(12)])
# Few scores, so many ties; two that are one in single precision only.
SCORES = st.sampled_from([0.0, 1.0, 1.0 + 1e-12, -2.5, 3.0, 1e9, 1e9 + 1])
QRELS = st.dictionaries(QUESTIONS, st.dictionaries(DOCS, st.integers(0, 2), min_size=1), min_size=1)
RUN = st.dictionaries(QUESTIONS, st.dictionaries(DOCS, SCORES))


def hits(run):
    return {name: [Hit(doc, score) for doc, score in found.items()] for name, found in run.items()}


@given(QRELS, RUN, st.sampled_from([1, 3, 100]))
def test_measures_equal_the_oracle_at_any_depth(judged, run, depth):
    assert trec_scores(judged, hits(run), depth) == pytest.approx(trec_oracle.measures(judged, run, depth), abs=1e-6)


@pytest.mark.parametrize("kinds", [4, 40, 10**6])
def test_measures_equal_the_oracle_where_long_runs_are_cut(kinds):
    """Scores of so many kinds: among a few, the hundredth hit ties with those beyond it."""
    rng = np.random.default_rng(kinds)
    docs = [f"{n}#{n % 7}" for n in range(400)]
    judged = {f"q{n}": {str(doc): int(rng.integers(3)) for doc in rng.choice(docs, size=8)} for n in range(90)}
    lengths = dict(zip(judged, [1, 99, 100, 101, 150, 400] * 14, strict=False))  # the last questions have no hits
    run = {
        name: {str(doc): float(rng.integers(kinds)) / 8 for doc in rng.choice(docs, size=length, replace=False)}
        for name, length in lengths.items()
    }
    expected = trec_oracle.measures(judged, run, 100)
    assert trec_scores(judged, hits(run), 100) == pytest.approx(expected, abs=1e-6)
    assert trec_oracle.measures(judged, run, 400)["recall@400"] > expected["recall@100"] + 0.05  # the cut is felt


@pytest.mark.parametrize(("place", "expected"), [(1, (1.0, 0.5)), (100, (0.01, 0.5)), (101, (0.0, 0.0))])
def test_a_hit_counts_down_to_the_hundredth(place, expected):
    ranked = [Hit("good" if number == place else f"d{number}", 1.0 / number) for number in range(1, 201)]
    judged = {"q": {"good": 1, "never found": 1, "d2": 0}}
    assert tuple(trec_scores(judged, {"q": ranked}, 100).values()) == pytest.approx(expected, abs=1e-6)
    asked_twice = {**judged, "another": {"good": 1}}
    halves = tuple(value / 2 for value in expected)
    assert tuple(trec_scores(asked_twice, {"q": ranked}, 100).values()) == pytest.approx(halves, abs=1e-6)


@given(QRELS, RUN)
def test_measures_equal_pytrec_evals_own(judged, run):
    measured = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank", "recall.100"}).evaluate(run)
    for ours, theirs in (("mrr@100", "recip_rank"), ("recall@100", "recall_100")):
        mean = sum(scores[theirs] for scores in measured.values()) / len(judged)
        assert trec_scores(judged, hits(run), 100)[ours] == pytest.approx(mean, abs=1e-6)


@given(RUN)
def test_the_order_does_not_depend_on_the_order_of_lines(run):
    for found in hits(run).values():
        assert trec_order(found) == trec_order(found[::-1])


def test_a_document_that_comes_twice_for_a_question_is_refused():
    with pytest.raises(DataError, match="question 'q': document 'a' comes twice"):
        trec_scores({"q": {"a": 1}}, {"q": [Hit("a", 1.0), Hit("b", 0.5), Hit("a", 0.1)]}, 100)


def make(folder, lang, topics="1\tone?\n2\ttwo?\n", qrels="1\tQ0\td1\t1\n2 Q0 d2 1\n2 Q0 d3 1\n", split="test"):
    folder.joinpath(f"topics.mrtydi-v1.1-{lang}.{split}.txt").write_text(topics)
    folder.joinpath(f"qrels.mrtydi-v1.1-{lang}.{split}.txt").write_text(qrels)
    return str(folder)


def test_the_official_topics_and_qrels(data_folder):
    benchmark = load_mrtydi(str(data_folder / "mrtydi"))
    told = benchmark.describe()
    assert told["complete"]
    assert told["languages"]["ar"] == {"questions": 1081, "relevant": 1257, "unjudged": 0}
    assert sum(own["questions"] for own in told["languages"].values()) == 8661
    perfect = {
        lang: {name: [Hit(doc, 1.0) for doc in documents] for name, documents in own.judged.items()}
        for lang, own in benchmark.languages.items()
    }
    score = benchmark.score(perfect)
    assert score["macro"] == {"mrr@100": 1.0, "recall@100": 1.0}
    assert list(score["languages"]) == ["ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th"]
    with pytest.raises(UsageError, match=r"no documents of ar, bn.*collection/docs.jsonl"):
        benchmark.collections()


def test_names_of_the_official_archives(tmp_path):
    folder = tmp_path / "mrtydi-v1.1-korean"
    (folder / "collection").mkdir(parents=True)
    (folder / "collection" / "docs.jsonl.gz").write_bytes(gzip.compress(json.dumps({"id": "d1"}).encode()))
    (folder / "topic.test.tsv").write_text("1\teins?\n")
    (folder / "qrels.test.txt").write_text("1 Q0 d1 1\n")
    benchmark = load_mrtydi(str(tmp_path))
    [question] = benchmark.questions()
    [collection] = benchmark.collections()
    assert (question.lang, question.collection, question.text) == ("ko", "ko", "eins?")
    assert (collection.name, collection.uri) == ("ko", str(folder / "collection" / "docs.jsonl.gz"))


def test_missing_languages_are_named_and_the_average_is_marked(tmp_path, capsys):
    make(tmp_path, "ar")
    benchmark = load_mrtydi(make(tmp_path, "bn"))
    assert "no files of en, fi, id, ja, ko, ru, sw, te, th" in capsys.readouterr().err
    assert benchmark.describe()["complete"] is False
    score = benchmark.score({"ar": {"1": [Hit("x", 2.0), Hit("d1", 1.0)], "9": [Hit("d1", 1.0)]}})
    assert score["languages"] == {"ar": {"mrr@100": 0.25, "recall@100": 0.5}}
    assert score["macro"] == {"mrr@100": 0.25, "recall@100": 0.5}
    assert score["missing"] == ["bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th"]
    assert not score["complete"]
    chosen = load_mrtydi(str(tmp_path), MrTydiConfig(languages=["bn"]))
    assert chosen.score({"bn": {"1": [Hit("d1", 1.0)]}})["complete"]
    with pytest.raises(DataError, match="no hits in any of bn"):
        chosen.score({})
    with pytest.raises(UsageError, match=r"no Mr.TyDi files of te; there is ar, bn"):
        load_mrtydi(str(tmp_path), MrTydiConfig(languages=["te"]))


def test_a_language_without_documents_is_named_and_the_others_are_ranked(tmp_path, capsys):
    make(tmp_path, "bn")
    config = EvaluateConfig()
    with pytest.raises(UsageError, match=r"no documents of bn: .*docs\.jsonl"):
        load_any(["mrtydi"], str(tmp_path), config)
    (tmp_path / "mrtydi-v1.1-ar").mkdir()
    (tmp_path / "mrtydi-v1.1-ar" / "docs.jsonl").write_text(json.dumps({"id": "d1", "contents": "x"}) + "\n")
    make(tmp_path, "ar")
    benchmark = load_any(["mrtydi"], str(tmp_path), config).ranked()["mrtydi"]
    assert "no documents (docs.jsonl) of bn" in capsys.readouterr().err
    assert [one.name for one in benchmark.collections()] == ["ar"]
    assert {question.lang for question in benchmark.questions()} == {"ar"}
    told = benchmark.describe()
    assert (list(told["languages"]), "bn" in told["missing"], told["complete"]) == (["ar"], True, False)
    assert "bn" in benchmark.score({"ar": {"1": [Hit("d1", 1.0)]}})["missing"]
    of_a_run = load_any(["mrtydi"], str(tmp_path), config, collections=False).ranked()["mrtydi"]
    assert {question.lang for question in of_a_run.questions()} == {"ar", "bn"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"topics": "1\tone?\n1\ttwo?\n"}, "topics.*line 2: question id '1' came before, at line 1"),
        ({"topics": "1\tone?\n2 two?\n"}, "topics.*line 2: expected an id, a tab and a question"),
        ({"qrels": "1 Q0 d1 1\n1 0 d2\n"}, "qrels.*line 2: expected four columns"),
        ({"qrels": "1 Q0 d1 yes\n"}, "qrels.*line 1: expected four columns"),
        ({"qrels": "1 Q0 d1 1\n1 Q0 d1 1\n"}, "line 2: document 'd1' is judged twice for question '1'"),
        ({"qrels": "7 Q0 d1 1\n"}, "judges 1 questions that .* does not have, such as '7'"),
        ({"topics": "\n"}, "no questions"),
        ({"qrels": ""}, "no judgements"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        load_mrtydi(make(tmp_path, "ar", **texts))


def test_another_version_and_another_split_are_named(tmp_path):
    make(tmp_path, "ar")
    with pytest.raises(UsageError, match=r"no Mr.TyDi v1.1 of split 'dev': expected topics.mrtydi-v1.1-LANG.dev.txt"):
        load_mrtydi(str(tmp_path), MrTydiConfig(split="dev"))
    (tmp_path / "topics.mrtydi-v1.0-bn.test.txt").write_text("1\tx\n")
    with pytest.raises(UsageError, match=r"topics.mrtydi-v1.0-bn.test.txt: a file of Mr.TyDi v1.0; expected v1.1"):
        load_mrtydi(str(tmp_path))
    (tmp_path / "topics.mrtydi-v1.0-bn.test.txt").rename(tmp_path / "topics.mrtydi-v1.1-arabic.test.txt")
    with pytest.raises(UsageError, match="has the same content by its name"):
        load_mrtydi(str(tmp_path))


def test_judged_documents_that_the_collection_lacks(tmp_path, capsys):
    (tmp_path / "mrtydi-v1.1-ar").mkdir()
    (tmp_path / "mrtydi-v1.1-ar" / "docs.jsonl").write_text("{}\n")
    benchmark = load_mrtydi(make(tmp_path, "ar"))
    assert benchmark.check_documents("ar", {"d1", "d2", "d3", "d4"}) == 0
    assert benchmark.check_documents("ar", {"d1", "d2"}) == 1
    assert "1 of 3 judged documents are not in the collection, such as 'd3'" in capsys.readouterr().err
    assert benchmark.describe()["languages"]["ar"]["unknown"] == 1
    with pytest.raises(DataError, match=r"2 of 3 judged documents are not in the collection .*docs.jsonl"):
        benchmark.check_documents("ar", {"d1", "x"})
