"""Curves of a training run from its metrics rows and from the evaluations of its checkpoints (JSON lines).

Training rows carry means over the steps since the last row; probe rows carry the collapse monitor's measurements
by language. A chart exists only if its numbers do: a bank that is off (all zeros) or an objective without masked
language modelling gives none. Numbers that are not finite cannot be drawn; the chart's note counts them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ccp_ray.artifact import Artifact
from ccp_ray.config import StrictModel, build_config
from ccp_ray.errors import DataError, UsageError
from eval.metric_names import headline_metrics, variant_label
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


EVALUATIONS = "evaluations.jsonl"


class EvaluationRow(StrictModel):
    """A number of a checkpoint: a fraction of 1."""

    step: int
    benchmark: str
    variant: str
    metric: str
    value: float


def read_evaluations(data: bytes, where: str) -> list[EvaluationRow]:
    """The rows of an `evaluations.jsonl`. Raises DataError naming the line that is none."""
    return [_row(line, f"{where}, line {number}") for number, line in enumerate(data.splitlines(), 1)]


def _row(line: bytes, where: str) -> EvaluationRow:
    try:
        return build_config(EvaluationRow, json.loads(line))
    except (ValueError, UsageError) as error:
        raise DataError(f"{where}: {error}; expected step, benchmark, variant, metric and value") from None


def from_evaluations(rows: Sequence[EvaluationRow], of: str = "") -> list[Curve]:
    """A chart a benchmark, by the metric it is known by first; a line a variant. `of` names the training run.

    Steps come in order whatever the order of rows; of a step that was evaluated twice the last row counts. Chance,
    where a benchmark tells it, is drawn as the level to compare with.
    """
    charts = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark]
        metric = headline_metrics(list(dict.fromkeys(row.metric for row in own)))[0]
        lines = [_variant(own, variant, metric) for variant in dict.fromkeys(row.variant for row in own)]
        if levels := {row.step: row.value for row in own if row.metric == "chance"}:
            lines.append(Series(name="chance", points=_sorted(levels), reference=True))
        charts.append(
            Curve(
                title=f"{of}: {benchmark}" if of else benchmark,
                y_label=metric,
                series=[line for line in lines if line.points],
                note="Checkpoints evaluated during training.",
                percent=True,
                from_zero=True,
            )
        )
    return charts


def curves_of(artifact: Artifact, of: str = "") -> list[Curve]:
    """Charts of the evaluations that an artifact of training holds; none where it holds none. Raises DataError."""
    if not any(record.path == EVALUATIONS for record in artifact.files):
        return []
    return from_evaluations(read_evaluations(artifact.read(EVALUATIONS), artifact.store.uri(EVALUATIONS)), of)


def _variant(rows: Sequence[EvaluationRow], variant: str, metric: str) -> Series:
    values = {row.step: row.value for row in rows if (row.variant, row.metric) == (variant, metric)}
    return Series(name=variant_label(variant), points=_sorted(values))


def _sorted(values: Mapping[int, float]) -> list[tuple[float, float]]:
    return [(float(step), values[step]) for step in sorted(values)]


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
