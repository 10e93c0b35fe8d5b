"""Runs beside published values: differences computed by hand, and nothing compared that does not compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_factory import TYDI, fitted_on_itself, mrtydi, tatoeba, write_evaluation, xor

from eval.comparison import Comparison, comparisons
from eval.evaluation_model import EvaluationReport
from eval.evaluation_read import read_runs
from eval.official_counts import other_lines, other_questions
from eval.published import load_published

CCP = dict(zip(TYDI, (82.0, 88.3, 80.1, 78.7, 87.5, 80.0, 73.2, 77.2, 75.1, 88.8, 88.9), strict=True))


def report(folder: Path, *runs: dict[str, Any], against: tuple[str, ...] = ("CCP",)) -> EvaluationReport:
    names = [f"run{i}" for i in range(len(runs))]
    artifacts = [write_evaluation(str(folder / name), run) for name, run in zip(names, runs, strict=True)]
    return EvaluationReport(
        title="t", runs=read_runs(artifacts, names), published=load_published().tables, against=list(against)
    )


def compared(report: EvaluationReport, benchmark: str, metric: str) -> Comparison:
    return next(c for c in comparisons(report) if (c.table.benchmark, c.table.metric) == (benchmark, metric))


def test_differences_by_hand(tmp_path: Path):
    found = compared(report(tmp_path, {"mrtydi": mrtydi()}), "mrtydi", "recall@100")
    assert found.against is not None
    assert found.against.system == "CCP"
    assert [one.series.variant for one in found.compared] == ["raw", "shift", "scale", "rotate"]
    raw, rotate = found.differences()[0], found.differences()[3]
    # ar: 80.0 - 82.0; te: 81.8 - 88.8; the mean of 80.0, 80.2, ... 82.0 is 81.0, and 0.818 is published
    assert raw.values["ar"] == pytest.approx(-0.020)
    assert raw.values["te"] == pytest.approx(-0.070)
    assert raw.average == pytest.approx(0.810 - 0.818)
    assert rotate.values["ko"] == pytest.approx(0.842 - 0.732)
    assert rotate.average == pytest.approx(0.840 - 0.818)
    assert raw.common is None


def test_a_row_with_a_mean_only_gives_the_means_difference(tmp_path: Path):
    found = compared(report(tmp_path, {"mrtydi": mrtydi()}, against=("mDPR",)), "mrtydi", "recall@100")
    one = found.differences()[0]
    assert set(one.values.values()) == {None}
    assert one.average == pytest.approx(0.810 - 0.594)


def test_a_missing_language_takes_the_averages_difference_away(tmp_path: Path):
    found = compared(report(tmp_path, {"mrtydi": mrtydi(TYDI[:9])}), "mrtydi", "recall@100")
    assert found.compared[0].lacks == "lacks te, th"
    one = found.differences()[0]
    assert one.average is None
    assert one.values["te"] is None
    assert one.over == 9
    ours = sum(0.8 + 0.002 * i for i in range(9)) / 9
    assert one.common == pytest.approx(ours - sum(list(CCP.values())[:9]) / 900)


def test_a_further_language_is_not_in_the_compared_average(tmp_path: Path):
    found = compared(report(tmp_path, {"mrtydi": mrtydi((*TYDI, "zz"))}), "mrtydi", "recall@100")
    assert found.compared[0].average == pytest.approx(0.810)
    assert found.differences()[0].average == pytest.approx(0.810 - 0.818)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("dev", "run0: is of split dev, published values are of test; not compared."),
        (None, "run0: does not say which split it is of, published values are of test; not compared."),
    ],
)
def test_another_split_is_not_compared(tmp_path: Path, split: str | None, reason: str):
    found = compared(report(tmp_path, {"mrtydi": mrtydi(split=split)}), "mrtydi", "recall@100")
    assert found.compared == []
    assert found.differences() == []
    assert found.refused == [reason]


def test_a_named_average_is_compared_where_it_is_whole(tmp_path: Path):
    whole = {"tatoeba": tatoeba(("fr", "de", "ar"))}
    part = {"tatoeba": tatoeba(("fr", "de"), missing=("ar",))}
    found = compared(report(tmp_path, whole, part, against=("CCP", "LaBSE")), "tatoeba", "mean")
    assert found.against is not None
    assert found.against.system == "LaBSE"
    first = next(d for d in found.differences() if d.series.run.name == "run0")
    second = next(d for d in found.differences() if d.series.run.name == "run1")
    mean = (0.3 + (0.3 + 0.3 / 7) + (0.3 + 0.6 / 7)) / 3
    assert first.average == pytest.approx(mean - 0.952)
    assert second.average is None
    assert {one.lacks for one in found.compared} == {"", "lacks ar"}


STARRED = "what has a star is fitted on the benchmark's own sentences; not compared."


def test_what_is_fitted_on_the_benchmark_is_not_compared(tmp_path: Path):
    """Though it has the average: neither beside a given calibration nor where it is the only one."""
    given, alone = {"tatoeba": tatoeba()}, {"tatoeba": fitted_on_itself(tatoeba())}
    found = compared(report(tmp_path, given, alone, against=("LaBSE",)), "tatoeba", "mean")
    shown = [(one.series.run.name, one.series.variant) for one in found.compared]
    assert shown == [*(("run0", variant) for variant in ("raw", "shift", "scale", "rotate")), ("run1", "raw")]
    assert found.refused == [f"run0: {STARRED}", f"run1: {STARRED}"]
    assert {one.series.run.name for one in found.differences() if one.average is not None} == {"run0", "run1"}


@pytest.mark.parametrize("lines", [999, 1001])
def test_tatoeba_of_another_version_is_not_compared(tmp_path: Path, lines: int):
    other = tatoeba()
    other["data"]["unofficial"] = {f"{lang}-en": told for lang, told in other_lines({"fr": lines, "te": 234}).items()}
    found = compared(report(tmp_path, {"tatoeba": other}, {"tatoeba": tatoeba()}), "tatoeba", "mean")
    assert {one.series.run.name for one in found.compared} == {"run1"}
    told = f"run0: is of other data than published values (fr-en: {lines:,} lines, officially 1,000); not compared."
    assert found.refused == [told, f"run1: {STARRED}"]


def test_without_the_chosen_row_there_is_no_difference(tmp_path: Path):
    found = compared(report(tmp_path, {"xor_retrieve": xor()}), "xor_retrieve", "r@2kt")
    assert found.against is None
    assert found.differences() == []
    assert found.compared[0].average == pytest.approx(0.53)


def test_tables_without_a_run_are_left_out(tmp_path: Path):
    assert {c.table.benchmark for c in comparisons(report(tmp_path, {"xor_retrieve": xor()}))} == {"xor_retrieve"}


def test_a_run_of_other_questions_is_not_compared(tmp_path: Path):
    """A set that `ccp-ray passages` wrote has Mr.TyDi's names and none of its questions."""
    mine, whole = mrtydi(), mrtydi()
    mine["data"]["other_questions"] = other_questions("mrtydi", "test", {"en": 1190, "ar": 1081, "de": 5})
    found = compared(report(tmp_path, {"mrtydi": mine}, {"mrtydi": whole}), "mrtydi", "recall@100")
    assert {one.series.run.name for one in found.compared} == {"run1"}
    told = "run0: is of other data than published values (en: 1,190 questions, officially 744, and 1 more)"
    assert found.refused == [f"{told}; not compared."]


def test_official_counts_are_those_of_the_papers():
    """By their sums: 8,661 test questions of Mr.TyDi, 2,110 of XOR-Retrieve's dev set."""
    totals = {}
    for benchmark, split, languages in (
        ("mrtydi", "test", TYDI),
        ("xor_retrieve", "dev", ("ar", "bn", "fi", "ja", "ko", "ru", "te")),
    ):
        told = other_questions(benchmark, split, dict.fromkeys(languages, 0))
        totals[benchmark] = sum(int(text.rpartition(" ")[2].replace(",", "")) for text in told.values())
    assert totals == {"mrtydi": 8661, "xor_retrieve": 2110}
    assert other_questions("mrtydi", "train", {"en": 1}) == {}
