"""Scoring runs that are there: what cannot be scored, and what a run leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_ranked import LANGUAGES, QUESTIONS, Toy, toy_folder

from ccp_ray.errors import CcpError, DataError, UsageError
from eval.run_scores import read_all, score_runs
from jobs.evaluate import show_scores


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return toy_folder(tmp_path, monkeypatch)


def write_trec(path: Path, questions: dict[str, str]) -> str:
    path.write_text("".join(f"{question} Q0 {hit} 1 0.5 x\n" for question, hit in questions.items()))
    return str(path)


def test_run_files_that_cannot_be_scored(folder: Path) -> None:
    def scored(*runs: str, benchmark: str = "toy") -> None:
        score_runs(runs, benchmark.split(","), str(folder), str(folder / "x"))

    good = write_trec(folder / "run.qaa.trec", {"1": "p1"})
    cases: list[tuple[Callable[[], None], type[CcpError], str]] = [
        (
            lambda: scored(write_trec(folder / "all.trec", {"1": "p1"})),
            DataError,
            r"'1' is one of qaa and of qab.*LANG",
        ),
        (lambda: scored(write_trec(folder / "qaa.trec", {"77": "p1"})), DataError, "answers none of the questions"),
        (lambda: scored(good, write_trec(folder / "b-qaa.run", {"1": "p2"})), DataError, "answered in another run"),
        (lambda: scored(good, benchmark="wordy"), UsageError, r"scores the passages' texts.*\.json"),
        (lambda: scored(str(folder / "p.json")), UsageError, r"p\.json: toy scores document ids.*give a TREC run"),
        (lambda: scored(good, benchmark="translations"), UsageError, "one benchmark with a collection"),
        (lambda: scored(good, benchmark="toy,wordy"), UsageError, "one benchmark with a collection"),
        (lambda: scored(), UsageError, "no run file"),
        (lambda: scored(str(folder / "none.trec")), UsageError, "none.trec"),
    ]
    for work, error, message in cases:
        with pytest.raises(error, match=message):
            work()
    assert not (folder / "x").exists()


def test_what_a_run_leaves_out_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a run of another version looks like a bad system."""
    run = write_trec(folder / "qaa.trec", {"1": "p1", "2": "p2", "77": "p3", "78": "p3"})
    score_runs([run], ["toy"], str(folder), str(folder / "by-name"))
    told = capsys.readouterr().err
    assert "toy: no run of qab\n" in told
    assert f"toy: no hits for {QUESTIONS - 2} of {QUESTIONS} questions ('0', …)" in told
    assert "toy: left out of the run: questions that are not asked (2: '77', …)" in told
    whole = {f"{number}": f"p{number}" for number in range(QUESTIONS)}
    score_runs(
        [write_trec(folder / f"{lang}.run", whole) for lang in LANGUAGES], ["toy"], str(folder), str(folder / "all")
    )
    assert capsys.readouterr().err == ""


def test_questions_of_a_file_for_all_languages_that_are_not_asked_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "topics.mrtydi-v1.1-en.test.txt").write_text("1\twho?\n2\twhere?\n")
    (tmp_path / "qrels.mrtydi-v1.1-en.test.txt").write_text("1 Q0 a 1\n2 Q0 b 1\n")
    run = write_trec(tmp_path / "all.trec", {"1": "a", "2": "b", "9": "c"})
    scored = score_runs([run], ["mrtydi"], str(tmp_path), str(tmp_path / "out"))
    assert scored.summary["benchmarks"]["mrtydi"]["run"]["mrr@100"] == 1.0
    assert f"{run}: left out: questions that are not asked (1 of 3: '9', …)" in capsys.readouterr().err
    show_scores(scored, False)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-3:] == [
        "  run    100.0       100.0",
        "  incomplete: the mean lacks 10 languages",
        "  not the official data: en: 2 questions, officially 744",
    ]


def test_predictions_with_texts_are_scored(folder: Path) -> None:
    wordy = Toy(str(folder), name="wordy", needs_text=True)
    wanted = [{"id": "0", "lang": "qaa", "ctxs": ["qac 1", "qac 2"]}]
    (folder / "p.json").write_text(json.dumps(wanted))
    run = read_all([str(folder / "p.json")], wordy)
    assert [hit.text for hit in run["qaa"]["0"]] == ["qac 1", "qac 2"]
