"""From metrics rows to curves."""

from __future__ import annotations

import math

import pytest
from report_data import metrics

from ccp_ray.errors import DataError
from eval.report import from_metrics
from eval.report_curves import EvaluationRow, from_evaluations, read_evaluations


def test_metrics_become_curves_by_section():
    curves = {curve.title: curve for curve in from_metrics(metrics())}
    assert [c.title for c in curves.values() if c.section == "training"] == [
        "Contrastive loss",
        "Masked language modelling loss",
        "In-group accuracy",
        "Learning rate",
        "Training speed",
    ]
    assert [c.title for c in curves.values() if c.section == "health"] == [
        "Spread of embeddings",
        "Effective rank",
        "Alignment",
        "Uniformity",
        "Staleness gap",
        "Bank fill",
        "Bank age",
    ]
    loss, spread = curves["Contrastive loss"], curves["Spread of embeddings"]
    assert [(s.name, s.reference, len(s.points)) for s in loss.series] == [
        ("contrastive", False, 20),
        ("guessing", True, 20),
    ]
    assert spread.by_language
    assert {s.name: s.points for s in spread.series} == {"en": [(0, 0.5), (200, 0.9)], "fr": [(0, 0.4), (200, 0.8)]}


def test_what_was_off_or_not_logged_has_no_curve():
    rows = [{"step": step, "contrastive": 4.0, "mlm": 0.0, "bank_fill": 0.0, "unknown": "x"} for step in (1, 2)]
    assert [curve.title for curve in from_metrics(rows)] == ["Contrastive loss"]
    assert from_metrics([]) == []


def test_values_that_are_not_finite_are_counted_not_drawn():
    rows = [{"step": step, "contrastive": value} for step, value in enumerate([4.0, math.nan, math.inf, 3.0])]
    (curve,) = from_metrics(rows)
    assert curve.series[0].points == [(0, 4.0), (3, 3.0)]
    assert "2 values are not a finite number" in curve.note


def test_a_language_that_is_probed_later_starts_later():
    rows = [{"step": 0, "probe": {"en": {"std": 0.5}}}, {"step": 9, "probe": {"en": {"std": 0.6}, "fr": {"std": 0.4}}}]
    (curve,) = from_metrics(rows)
    assert {s.name: s.points for s in curve.series} == {"en": [(0, 0.5), (9, 0.6)], "fr": [(9, 0.4)]}


def evaluation(step: int, value: float, variant: str = "raw", **changes: object) -> EvaluationRow:
    row = {"step": step, "benchmark": "tatoeba", "variant": variant, "metric": "mean", "value": value}
    return EvaluationRow.model_validate(row | changes)


def test_evaluations_become_a_chart_a_benchmark_with_a_line_a_variant():
    rows = [evaluation(step, step / 100, variant) for step in (20, 0, 10) for variant in ("raw", "rotate")]
    rows += [evaluation(step, 0.9, metric="forward") for step in (0, 10)]
    rows += [evaluation(5, 0.5, benchmark="mrtydi", metric=metric) for metric in ("mrr@100", "recall@100")]
    tatoeba, mrtydi = from_evaluations(rows, "small")
    assert (tatoeba.title, tatoeba.y_label, tatoeba.section) == ("small: tatoeba", "mean", "training")
    assert [(s.name, s.points) for s in tatoeba.series] == [
        ("raw", [(0, 0.0), (10, 0.1), (20, 0.2)]),
        ("+ rotate", [(0, 0.0), (10, 0.1), (20, 0.2)]),
    ]
    assert tatoeba.percent
    assert not tatoeba.smooth
    assert (mrtydi.y_label, [s.points for s in mrtydi.series]) == ("mrr@100", [[(5, 0.5)]])
    assert from_evaluations([]) == []


def test_a_step_evaluated_again_counts_once_and_chance_is_a_level():
    rows = [evaluation(1, value, benchmark="context", metric="accuracy") for value in (0.1, 0.3)]
    (curve,) = from_evaluations([*rows, evaluation(1, 0.02, benchmark="context", metric="chance")])
    assert [(s.name, s.points, s.reference) for s in curve.series] == [
        ("raw", [(1, 0.3)], False),
        ("chance", [(1, 0.02)], True),
    ]


def test_rows_are_read_line_by_line_and_a_wrong_one_is_named():
    good = evaluation(3, 0.5)
    assert read_evaluations(f"{good.model_dump_json()}\n".encode(), "x") == [good]
    for line, words in [
        (b"{", "x, line 2: "),
        (b"[]", "x, line 2: "),
        (b'{"step": 1}', "benchmark: required"),
        (good.model_dump_json().replace("0.5", "NaN").encode(), "value"),
    ]:
        with pytest.raises(DataError, match=words):
            read_evaluations(good.model_dump_json().encode() + b"\n" + line, "x")
