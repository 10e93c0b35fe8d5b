"""Curves of a pretraining run from its metrics rows (JSON lines).

Training rows carry means over the steps since the last row; probe rows carry the collapse monitor's measurements
by language. A chart exists only if its numbers do: a bank that is off (all zeros) or an objective without masked
language modelling gives none. Numbers that are not finite cannot be drawn; the chart's note counts them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eval.report_model import Curve, Series

Row = Mapping[str, Any]


class _Chart(NamedTuple):
    key: str
    title: str
    y_label: str
    note: str
    reference: tuple[str, str] | None = None  # (key, name) of a level to compare with
    health: bool = False
    percent: bool = False
    from_zero: bool = True
    smooth: bool = True


_TRAINING = (
    _Chart("contrastive", "Contrastive loss", "nats", "Both directions.", ("chance", "guessing"), from_zero=False),
    _Chart("mlm", "Masked language modelling loss", "nats", "", from_zero=False),
    _Chart("accuracy", "In-group accuracy", "", "The context is told from the group's other sentences.", percent=True),
    _Chart("lr", "Learning rate", "", "Of the encoder.", smooth=False),
    _Chart("tokens_per_s", "Training speed", "tokens/s", ""),
    _Chart("staleness_gap", "Staleness gap", "cosine", "Near zero is healthy; growing is the shortcut.", health=True),
    _Chart("bank_fill", "Bank fill", "", "Share of slots that hold a key.", health=True, percent=True, smooth=False),
    _Chart("bank_age", "Bank age", "steps", "Mean age of the negatives in use.", health=True, smooth=False),
)
_PROBE = (
    ("std", "Spread of embeddings", "std \N{MULTIPLICATION SIGN} √D", "1: spread over the sphere; 0: collapsed.", True),
    ("effective_rank", "Effective rank", "dimensions", "How many directions the space uses.", True),
    ("alignment", "Alignment", "squared distance", "Of context pairs; lower is closer.", True),
    ("uniformity", "Uniformity", "log potential", "Lower is more even over the sphere.", False),
    ("leakage", "Leakage", "nats", "What batch statistics alone give away; 0 is healthy.", True),
)


def from_metrics(rows: Sequence[Row]) -> list[Curve]:
    """Training and health charts of metrics rows, in the order they are shown.

    A row is {"step", "contrastive", ...} or {"step", "probe": {language: {"std", "effective_rank", "alignment",
    "uniformity", "leakage", "epochs"}}}; unknown keys are ignored, missing ones leave their chart out.
    """
    training = [row for row in rows if "probe" not in row]
    probes = [row for row in rows if "probe" in row]
    charts = [_training(chart, training) for chart in _TRAINING]
    health = [_probe(*chart, probes) for chart in _PROBE]
    found = [curve for curve in charts + health if curve]
    return sorted(found, key=lambda curve: (curve.section == "health", curve.section == "health" and _alone(curve)))


def _alone(curve: Curve) -> bool:
    return not curve.by_language  # the monitor's measurements by language come first


def _training(chart: _Chart, rows: Sequence[Row]) -> Curve | None:
    series, dropped = _series(
        chart.key.replace("_", " "), [(row["step"], row[chart.key]) for row in rows if chart.key in row]
    )
    if not any(y for _, y in series.points):
        return None
    lines = [series]
    if chart.reference:
        key, name = chart.reference
        level, _ = _series(name, [(row["step"], row[key]) for row in rows if key in row])
        lines += [level.model_copy(update={"reference": True})] if level.points else []
    return Curve(
        title=chart.title,
        y_label=chart.y_label,
        series=lines,
        note=_note(chart.note, dropped),
        section="health" if chart.health else "training",
        percent=chart.percent,
        from_zero=chart.from_zero,
        smooth=chart.smooth,
    )


def _probe(key: str, title: str, y_label: str, note: str, from_zero: bool, rows: Sequence[Row]) -> Curve | None:
    languages = sorted({lang for row in rows for lang, values in row["probe"].items() if key in values})
    lines, dropped = [], 0
    for lang in languages:
        points = [(row["step"], row["probe"][lang][key]) for row in rows if key in row["probe"].get(lang, {})]
        series, lost = _series(lang, points)
        lines += [series] if series.points else []
        dropped += lost
    if not lines:
        return None
    return Curve(
        title=title,
        y_label=y_label,
        series=lines,
        note=_note(note, dropped),
        section="health",
        from_zero=from_zero,
        by_language=True,
    )


def _series(name: str, points: Sequence[tuple[Any, Any]]) -> tuple[Series, int]:
    """The series of the finite points, and how many were not."""
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(y)]
    return Series(name=name, points=finite), len(points) - len(finite)


def _note(note: str, dropped: int) -> str:
    lost = f"{dropped:,} {'value is' if dropped == 1 else 'values are'} not a finite number and not drawn."
    return " ".join(part for part in (note, lost if dropped else "") if part)
