"""Evaluation artifacts become runs: every kind of score, what averages lack, and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_factory import fitted_on_itself, mrtydi, tatoeba, write_evaluation, xor, xquad_r

from ccp_ray.errors import DataError, UsageError
from eval.evaluation_blocks import blocks
from eval.evaluation_model import EvaluationReport, last_variants, series_of
from eval.evaluation_read import default_names, read_runs, values_of


def leaves(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a score by its path: the oracle of `values_of`."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def test_every_kind_of_score_is_read(tmp_path: Path):
    results = {"tatoeba": tatoeba(), "mrtydi": mrtydi(), "xor_retrieve": xor(), "xquad_r": xquad_r()}
    (run,) = read_runs([write_evaluation(str(tmp_path / "e"), results)], ["run"])
    found = run.benchmarks
    assert list(found["tatoeba"].variants) == ["raw", "shift", "scale", "rotate", "shift*", "scale*", "rotate*"]
    assert found["tatoeba"].sections() == ["", "margin", "margin.joined", "joined"]
    score = found["tatoeba"].score("raw", "")
    assert score is not None
    assert score.kind == "pair"
    assert set(score.parts) == {"fr-en", "de-en", "ar-en"}
    assert list(found["mrtydi"].variants) == ["raw", "shift", "scale", "rotate"]
    assert found["mrtydi"].split == "test"
    assert list(found["xor_retrieve"].variants) == ["raw"]
    assert found["xquad_r"].sections() == [""]
    assert found["xquad_r"].incomplete == {"macro": "lacks el, es"}
    assert run.sources[0].scored == "runs/encoder"


def test_paths_are_those_of_the_file(tmp_path: Path):
    results = {"tatoeba": tatoeba(), "mrtydi": mrtydi()}
    (run,) = read_runs([write_evaluation(str(tmp_path / "e"), results)], ["run"])
    values = values_of(run)
    for name, result in results.items():
        for variant, score in result["variants"].items():
            assert values[name][variant] == leaves(score)
    assert (
        values["tatoeba"]["rotate*"]["macro.mean"] == results["tatoeba"]["own"]["variants"]["rotate"]["macro"]["mean"]
    )


def test_what_averages_lack(tmp_path: Path):
    part = tatoeba(missing=tuple("abcdefgh"))
    silent = tatoeba()
    del silent["data"]["averages"]
    unofficial = xquad_r()
    unofficial["data"]["missing"] = []
    artifact = write_evaluation(str(tmp_path / "e"), {"tatoeba": part, "other": silent, "xquad_r": unofficial})
    (run,) = read_runs([artifact], ["run"])
    assert run.benchmarks["tatoeba"].incomplete == {"macro": "lacks 8 languages", "36": "lacks 8 languages"}
    assert run.benchmarks["other"].incomplete == {"36": "does not say which languages it is over"}
    assert run.benchmarks["xquad_r"].incomplete == {"macro": "differs from the official files"}


def test_what_a_run_had_nothing_of(tmp_path: Path):
    tydi, asked = mrtydi(("ar", "bn")), xor()
    tydi["data"] |= {"missing": ["bn"], "complete": False}
    tydi["variants"]["raw"] |= {"missing": ["bn", "te"], "complete": False}
    asked["variants"]["raw"] |= {"missing": {"ar": 2, "fi": 1200}, "complete": False}
    everywhere = xor()
    everywhere["variants"]["raw"]["missing"] = dict.fromkeys(everywhere["variants"]["raw"]["languages"], 200)
    whole = mrtydi()
    whole["variants"]["raw"] |= {"missing": [], "complete": True}
    results = {"mrtydi": tydi, "xor_retrieve": asked, "all": everywhere, "other": whole}
    artifact = write_evaluation(str(tmp_path / "e"), results)
    (run,) = read_runs([artifact], ["run"])
    assert run.benchmarks["mrtydi"].incomplete == {"macro": "lacks bn, te"}
    assert run.benchmarks["xor_retrieve"].incomplete == {"macro": "lacks 2 questions in ar, 1,200 questions in fi"}
    assert run.benchmarks["all"].incomplete == {"macro": "lacks 1,400 questions in 7 languages"}
    assert run.benchmarks["other"].incomplete == {}


def test_what_is_fitted_on_the_benchmark_has_a_star_and_all_its_steps_where_there_are_no_others(tmp_path: Path):
    results = {"tatoeba": fitted_on_itself(tatoeba()), "mrtydi": mrtydi()}
    artifacts = [write_evaluation(str(tmp_path / "a"), results), write_evaluation(str(tmp_path / "b"), results)]
    report = EvaluationReport(title="t", runs=read_runs(artifacts, ["a", "b"]))
    steps = ["raw", "+ shift*", "+ scale*", "+ rotate*"]
    assert list(report.runs[0].benchmarks["tatoeba"].variants) == ["raw", "shift*", "scale*", "rotate*"]
    assert [one.label for one in series_of(report, "tatoeba")] == [f"{name} {step}" for name in "ab" for step in steps]
    assert [one.label for one in last_variants(series_of(report, "tatoeba"))] == ["a + rotate*", "b + rotate*"]
    assert [one.label for one in last_variants(series_of(report, "mrtydi"))] == ["a + rotate", "b + rotate"]
    values = values_of(report.runs[0])["tatoeba"]
    assert values["rotate*"]["macro.mean"] == results["tatoeba"]["variants"]["rotate"]["macro"]["mean"]


def test_evaluations_under_one_name_are_one_run(tmp_path: Path):
    first = write_evaluation(str(tmp_path / "a"), {"mrtydi": mrtydi()})
    second = write_evaluation(str(tmp_path / "b"), {"tatoeba": tatoeba()})
    third = write_evaluation(str(tmp_path / "c"), {"tatoeba": tatoeba()})
    runs = read_runs([first, second, third], ["x", "x", "y"])
    assert [(run.name, list(run.benchmarks)) for run in runs] == [("x", ["mrtydi", "tatoeba"]), ("y", ["tatoeba"])]
    assert [source.uri for source in runs[0].sources] == [first.uri, second.uri]
    with pytest.raises(UsageError, match="run 'x': tatoeba stands in two of its evaluations"):
        read_runs([second, third], ["x", "x"])


def test_series_name_the_run_where_there_are_several(tmp_path: Path):
    artifacts = [write_evaluation(str(tmp_path / name), {"tatoeba": tatoeba()}) for name in "ab"]
    report = EvaluationReport(title="t", runs=read_runs(artifacts, ["a", "b"]))
    series = series_of(report, "tatoeba")
    steps = ["raw", "+ shift", "+ scale", "+ rotate", "+ rotate*"]
    assert [one.label for one in series] == [f"{name} {step}" for name in "ab" for step in steps]
    assert [one.label for one in last_variants(series)] == ["a + rotate", "b + rotate"]
    alone = EvaluationReport(title="t", runs=report.runs[:1])
    assert [one.label for one in series_of(alone, "tatoeba")] == steps
    assert series_of(alone, "mrtydi") == []


@pytest.mark.parametrize(
    ("uris", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/a/", "runs/b"], ["a", "b"]),
        (["runs/a/evaluation", "s3://bucket/b/evaluation"], ["a/evaluation", "b/evaluation"]),
        (["x/a", "y/x/a"], ["x/a", "y/x/a"]),
    ],
)
def test_default_names(uris: list[str], names: list[str]):
    assert default_names(uris) == names


def test_one_evaluation_twice_is_refused():
    with pytest.raises(UsageError, match="runs/a: given twice"):
        default_names(["runs/a", "runs/b", "runs/a"])


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"mrtydi": {"data": {}, "calibration": "none", "variants": {"raw": {"macro": {"mrr@100": "high"}}}}}, "macro"),
        (
            {"mrtydi": {"data": {}, "calibration": "none", "variants": {"raw": {"macro": {"x": float("nan")}}}}},
            "macro.x",
        ),
        ({"mrtydi": {"data": {}, "calibration": "none", "variants": {}}}, "variants"),
        ({"mrtydi": {"calibration": "none", "variants": {"raw": {"macro": {}}}}}, "KeyError"),
        ({"mrtydi": []}, "TypeError"),
        ({}, "benchmarks"),
    ],
)
def test_results_of_another_make_are_refused(results: dict, words: str, tmp_path: Path):
    artifact = write_evaluation(str(tmp_path / "e"), results)
    with pytest.raises(DataError) as caught:
        read_runs([artifact], ["run"])
    assert "results.json" in str(caught.value)
    assert words in str(caught.value)


def test_altered_results_are_refused(tmp_path: Path):
    artifact = write_evaluation(str(tmp_path / "e"), {"mrtydi": mrtydi()})
    file = tmp_path / "e" / "results.json"
    file.write_text(json.dumps({"benchmarks": {"mrtydi": mrtydi(recall=0.9)}}))
    with pytest.raises(DataError, match="checksum does not match"):
        read_runs([artifact], ["run"])


def test_scored_run_files_and_benchmarks_without_data(tmp_path: Path):
    raw = mrtydi()
    only = raw | {"calibration": "none", "variants": {"run": raw["variants"]["raw"]}}
    first = write_evaluation(
        str(tmp_path / "a"), {"mrtydi": only}, ("runs", "x/ar.trec"), missing=["tatoeba", "xquad_r"]
    )
    second = write_evaluation(str(tmp_path / "b"), {"tatoeba": tatoeba()})
    (run,) = read_runs([first], ["bm25"])
    assert (run.sources[0].scored, list(run.benchmarks["mrtydi"].variants)) == ("x/ar.trec", ["run"])
    assert run.missing == ["tatoeba", "xquad_r"]
    (both,) = read_runs([first, second], ["bm25", "bm25"])
    assert both.missing == ["xquad_r"]
    report = EvaluationReport(title="t", runs=[both])
    assert [one.label for one in series_of(report, "mrtydi")] == ["run"]
    assert blocks(report)[-1].notes == ["bm25: no data for xquad_r."]
