"""`ccp-ray report`: what is written, what is said, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import ccp
from evaluation_factory import mrtydi, tatoeba, write_curve, write_evaluation

ROW = {"step": 10, "benchmark": "tatoeba", "variant": "raw", "metric": "mean", "value": 0.2}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_evaluation(str(tmp_path / "a"), {"mrtydi": mrtydi(), "tatoeba": tatoeba()})
    write_evaluation(str(tmp_path / "b"), {"mrtydi": mrtydi(recall=0.7)})
    return tmp_path


def written(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_one_run_and_then_again_the_same(runs: Path):
    first = ccp("report", runs / "a", "--output", runs / "out", "--json")
    assert first.code == 0
    assert first.json["result"] == "Mr. TyDi, recall@100, points to CCP: a raw −0.8, a + rotate +2.2."  # noqa: RUF001
    assert {p.name for p in (runs / "out").glob("report.*")} == {
        "report.html",
        "report.md",
        "report.tex",
        "report.json",
    }
    again = ccp("report", runs / "a", "--output", runs / "out", "--json")
    assert again.code == 0
    assert again.json == first.json


def test_several_runs_by_name_and_another_row(runs: Path):
    result = ccp(
        *("report", runs / "a", runs / "b", "--name", "one", "--name", "two", "--output", runs / "out"),
        *("--against", "LaBSE", "--title", "Mine"),
    )
    assert result.code == 0, result.err
    found = written(runs / "out")
    assert [run["name"] for run in found["runs"]] == ["one", "two"]
    assert "Difference to LaBSE, in points" in (runs / "out" / "report.md").read_text()
    assert (runs / "out" / "report.md").read_text().startswith("# Mine\n")


def test_what_is_written_as_expected_is_met_and_a_lesser_run_falls_short(runs: Path):
    expected = runs / "expected.yaml"
    assert ccp("report", runs / "a", "--output", runs / "o1", "--write-expected", expected).code == 0
    assert ccp("report", runs / "a", "--output", runs / "o2", "--check", expected).code == 0
    short = ccp("report", runs / "b", "--output", runs / "o3", "--check", expected)
    assert short.code == 1
    assert "b: mrtydi raw macro.recall@100: 0.7100, falls short (expected 0.8100 ± 0.0050)" in short.err
    assert "b: tatoeba raw macro.mean: not in the run" in short.err
    assert short.err.splitlines()[-1].startswith("ccp-ray: error: ")
    assert "see " in short.err.splitlines()[-1]
    assert (runs / "o3" / "report.html").exists()
    again = ccp("report", runs / "b", "--output", runs / "o3", "--check", expected)
    assert (again.code, again.err) == (1, short.err)


def test_better_than_expected_is_said_and_passes(runs: Path):
    expected = runs / "expected.yaml"
    expected.write_text("mrtydi: {raw: {macro.recall@100: {value: 0.5, tolerance: 0.01}}}")
    result = ccp("report", runs / "a", "--output", runs / "out", "--check", expected)
    assert result.code == 0
    assert "a: mrtydi raw macro.recall@100: 0.8100, better than expected (expected 0.5000 ± 0.0100)" in result.err
    assert "All 1 expected values met; 1 better than expected." in result.out


def test_another_question_for_the_same_folder_is_drift(runs: Path):
    assert ccp("report", runs / "a", "--output", runs / "out").code == 0
    result = ccp("report", runs / "a", "--output", runs / "out", "--against", "LaBSE")
    assert result.code == 2
    assert "against" in result.error


def test_curves_of_training_runs(runs: Path):
    write_curve(str(runs / "x"), [ROW, ROW | {"step": 20, "value": 0.3}])
    write_curve(str(runs / "y"), [ROW], kind="encoder")
    result = ccp("report", runs / "a", "--output", runs / "out", "--curve", runs / "x", "--curve", runs / "y")
    assert result.code == 0, result.err
    assert [curve["title"] for curve in written(runs / "out")["curves"]] == ["x: tatoeba", "y: tatoeba"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "one"], "--name: 1 for 2 evaluations"),
        (["--name", "one", "--name", " "], "--name: empty"),
        (["--name", "one", "--name", "one"], "run 'one': mrtydi stands in two"),
        (["--against", "InfoXML"], "did you mean 'InfoXLM'"),
        (["--check", "nothing.yaml"], "nothing.yaml: no such file"),
        (["--write-expected", "e.yaml"], "--write-expected: 2 runs"),
        (["--curve", "a"], "holds no artifact"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_writes_nothing(arguments: list[str], words: str, runs: Path):
    result = ccp("report", runs / "a", runs / "b", "--output", runs / "out", *arguments)
    assert result.code == 2
    assert words in result.error
    assert not (runs / "out").exists()


def test_what_is_no_evaluation_is_refused(runs: Path):
    write_curve(str(runs / "x"), [ROW])
    assert "holds a curve artifact, expected evaluation" in ccp("report", runs / "x", "--output", runs / "o").error
    result = ccp("report", runs / "a", "--output", runs / "o", "--curve", runs / "b")
    assert result.code == 2
    assert "this evaluation artifact has no evaluations.jsonl" in result.error


def test_a_damaged_evaluation_is_exit_code_1(runs: Path):
    (runs / "a" / "results.json").write_text("{}")
    result = ccp("report", runs / "a", "--output", runs / "out")
    assert result.code == 1
    assert "checksum does not match" in result.error
