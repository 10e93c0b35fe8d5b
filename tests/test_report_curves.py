"""From metrics rows to curves."""

from __future__ import annotations

import math

from report_data import metrics

from eval.report import from_metrics


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
