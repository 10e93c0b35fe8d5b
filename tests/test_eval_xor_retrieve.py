"""XOR-Retrieve: the official numbers from a predictions file, and what is said of bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xor_oracle

from ccp_ray.errors import DataError, UsageError
from eval.ranked import Hit
from eval.run_reader import read_predictions
from eval.xor_retrieve import XorRetrieveConfig, load_xor_retrieve

QUESTIONS = [
    {"id": "1", "question": "q eins", "answers": ["Paris", "yes"], "lang": "fi", "split": "dev"},
    {"id": "2", "question": "q zwei", "answers": ["yes", "no"], "lang": "fi", "split": "dev"},
    {"id": "3", "question": "q drei", "answers": ["1998"], "lang": " ar", "split": "dev"},
    {"id": "4", "question": "q vier", "answers": ["New York"], "lang": "ar", "split": "dev"},
]


def write_questions(folder, rows=QUESTIONS, name="xor_dev_retrieve_eng_span_v1_1.jsonl"):
    folder.joinpath(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def run_of(texts_by_question):
    lang = {row["id"]: row["lang"].strip() for row in QUESTIONS}
    run = {}
    for name, texts in texts_by_question.items():
        run.setdefault(lang[name], {})[name] = [Hit(str(i), -i, text) for i, text in enumerate(texts)]
    return run


def test_numbers_on_real_questions_equal_the_oracles(data_folder, tmp_path):
    benchmark = load_xor_retrieve(str(data_folder), XorRetrieveConfig(languages=["te", "ko"]))
    paragraphs = json.loads((data_folder / "xquad" / "xquad.en.json").read_text())["data"]
    pool = [paragraph["context"] for article in paragraphs for paragraph in article["paragraphs"]]
    rng = np.random.default_rng(0)
    answers = {name: one.answers for name, one in benchmark.gold.items()}
    predictions = []
    for question in benchmark.questions()[::9]:
        texts = [pool[i] for i in rng.choice(len(pool), size=50, replace=False)]
        spot = int(rng.integers(50))
        texts[spot] = f"{texts[spot]} It was {answers[question.id][0]}."
        predictions.append({"id": question.id, "lang": question.lang, "ctxs": texts})
    predictions.append({"id": "unknown", "lang": "ko", "ctxs": []})
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    score = benchmark.score(read_predictions(str(tmp_path / "p.json")))
    for name, limit in (("r@2kt", 2000), ("r@5kt", 5000)):
        macro, shares = xor_oracle.recall(predictions, answers, limit)
        assert score["macro"][name] == pytest.approx(macro, abs=1e-12)
        assert {lang: values[name] for lang, values in score["languages"].items()} == pytest.approx(shares)
    assert 0 < score["macro"]["r@2kt"] < score["macro"]["r@5kt"]
    assert score["unknown"] == 1


def test_what_the_real_questions_are(data_folder):
    told = load_xor_retrieve(str(data_folder)).describe()
    assert sum(own["questions"] for own in told["languages"].values()) == 2110
    assert sum(own["skipped"] for own in told["languages"].values()) == 182
    assert list(told["languages"]) == ["ar", "bn", "fi", "ja", "ko", "ru", "te"]
    assert told["complete"]
    train = load_xor_retrieve(str(data_folder), XorRetrieveConfig(split="train"))
    assert {question.lang for question in train.questions()} == set(told["languages"])


@pytest.mark.parametrize(
    ("languages", "missing"), [(None, ["bn", "ja", "ko", "ru", "te"]), (["fi", "ar"], []), (["ar"], [])]
)
def test_languages_that_the_questions_lack_are_named(tmp_path, languages, missing):
    """Of all seven, or of those that were asked for; yes-or-no questions are counted apart."""
    told = load_xor_retrieve(write_questions(tmp_path), XorRetrieveConfig(languages=languages)).describe()
    counts = {"ar": {"questions": 2, "skipped": 0}, "fi": {"questions": 2, "skipped": 1}}
    assert told["languages"] == {lang: own for lang, own in counts.items() if languages is None or lang in languages}
    assert (told["split"], told["missing"], told["complete"]) == ("dev", missing, not missing)
    assert told["other_questions"]["ar"] == "2 questions, officially 350"


def test_missing_questions_are_named_and_the_official_mean_is_over_the_others(tmp_path, capsys):
    benchmark = load_xor_retrieve(write_questions(tmp_path))
    score = benchmark.score(run_of({"1": ["in Paris"], "2": ["x"], "3": ["in 1999"]}))
    assert score["languages"] == {"ar": {"r@2kt": 0.0, "r@5kt": 0.0}, "fi": {"r@2kt": 1.0, "r@5kt": 1.0}}
    assert (score["missing"], score["complete"], score["counts"]) == ({"ar": 1}, False, {"ar": 1, "fi": 1})
    assert score["macro"]["r@2kt"] == 0.5
    assert "1 questions are missing" in capsys.readouterr().err
    one = benchmark.score(run_of({"4": ["New York"]}))
    assert one["macro"]["r@5kt"] == 1
    assert one["with_missing"]["r@5kt"] == 0.25
    assert one["missing_languages"] == ["fi"]


def test_a_question_named_with_no_passages_is_a_miss(tmp_path):
    score = load_xor_retrieve(write_questions(tmp_path)).score(run_of({"1": [], "3": ["1998"], "4": ["new york"]}))
    assert score["languages"] == {"ar": {"r@2kt": 0.5, "r@5kt": 0.5}, "fi": {"r@2kt": 0.0, "r@5kt": 0.0}}
    assert score["complete"]


def test_passages_are_the_one_tsv_or_the_chosen(tmp_path):
    folder = write_questions(tmp_path)
    with pytest.raises(UsageError, match=r"no passages: expected a \.tsv"):
        load_xor_retrieve(folder).collections()
    (tmp_path / "psgs.tsv").write_text("id\ttext\ttitle\n")
    [collection] = load_xor_retrieve(folder).collections()
    assert (collection.name, collection.uri.endswith("psgs.tsv")) == ("en", True)
    assert {question.collection for question in load_xor_retrieve(folder).questions()} == {"en"}
    (tmp_path / "other.tsv.gz").write_bytes(b"")
    with pytest.raises(UsageError, match=r"other.tsv.gz, psgs.tsv: which one"):
        load_xor_retrieve(folder)
    [chosen] = load_xor_retrieve(folder, XorRetrieveConfig(passages="psgs.tsv")).collections()
    assert chosen == collection
    with pytest.raises(UsageError, match=r"no file none.tsv"):
        load_xor_retrieve(folder, XorRetrieveConfig(passages="none.tsv"))


@pytest.mark.parametrize(("questions", "other"), [("xor_retrieve", "."), (".", "xor_retrieve")])
def test_passages_beside_the_questions_come_before_a_tsv_of_the_other_folder(tmp_path, questions, other):
    (tmp_path / "xor_retrieve").mkdir()
    write_questions(tmp_path / questions)
    (tmp_path / other / "topics.tsv").write_text("1\tof another benchmark\n")
    [elsewhere] = load_xor_retrieve(str(tmp_path)).collections()
    assert elsewhere.uri == str(tmp_path / other / "topics.tsv")
    (tmp_path / questions / "psgs.tsv").write_text("id\ttext\ttitle\n")
    [beside] = load_xor_retrieve(str(tmp_path)).collections()
    assert beside.uri == str(tmp_path / questions / "psgs.tsv")


@pytest.mark.parametrize(
    ("rows", "message", "kind"),
    [
        ([QUESTIONS[1]], "all answers are yes or no", DataError),
        ([QUESTIONS[0], QUESTIONS[0]], "line 2: question id '1' came before, at line 1", DataError),
        ([QUESTIONS[0] | {"answers": []}], 'line 1: "answers" is no list of strings', DataError),
        ([QUESTIONS[0] | {"lang": 3}], 'line 1: no "lang"', DataError),
        ([[]], "line 1: a JSON list, expected an object", DataError),
        (
            [QUESTIONS[0], QUESTIONS[2] | {"split": "test"}],
            "line 2: \"split\" is 'test'; expected questions of dev",
            DataError,
        ),
        ([], "no questions", DataError),
    ],
)
def test_bad_questions_are_named(tmp_path, rows, message, kind):
    with pytest.raises(kind, match=message):
        load_xor_retrieve(write_questions(tmp_path, rows))


def test_missing_files_and_languages_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no xor_dev_retrieve_eng_span\*.jsonl"):
        load_xor_retrieve(str(tmp_path))
    folder = write_questions(tmp_path)
    with pytest.raises(UsageError, match="no questions in te; there is ar, fi"):
        load_xor_retrieve(folder, XorRetrieveConfig(languages=["te"]))
    write_questions(tmp_path, name="xor_dev_retrieve_eng_span.jsonl")
    with pytest.raises(UsageError, match="are both questions of dev"):
        load_xor_retrieve(folder)


def test_bad_runs_are_named(tmp_path):
    benchmark = load_xor_retrieve(write_questions(tmp_path))
    for run in ({}, run_of({"2": ["x"]}), {"fi": {"9": []}}):
        with pytest.raises(DataError, match="none of the questions that count"):
            benchmark.score(run)
    with pytest.raises(DataError, match="question '1' is fi, but te in the run"):
        benchmark.score({"te": {"1": []}})
