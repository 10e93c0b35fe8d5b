"""An ablation's page: self-contained HTML, the same as Markdown, both from `AblationData` alone.

    write_page(data, store)        ablation.html, ablation.md

Charts: what each variant changes against the first one (mean difference, two standard errors), and the training's
curves, mean over seeds, a chart a measure and family of variants, with the first variant in every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.storage import Store
from eval import ablation_tables as tables
from eval import plots
from eval.ablation import AblationData, difference, tried
from eval.ablation_measures import CURVES
from eval.page import Figure, Key, curve_figure, render_page
from eval.paired import ERRORS, verdict
from eval.report_markdown import markdown_table, plain
from eval.report_model import Curve, Point, Series
from eval.report_tables import Table, moment

_CHARTS: dict[str, tuple[str, str, str]] = {  # measure: title, y label, note
    "loss_share": ("Contrastive loss", "of guessing", "1 is guessing, whatever the number of negatives."),
    "group_accuracy": ("In-group accuracy", "", "The context is told from the group's other sentences."),
    "staleness_gap": ("Staleness gap", "cosine", "Near zero is healthy; growing is the shortcut."),
    "spread": ("Spread of embeddings", "std \N{MULTIPLICATION SIGN} √D", "1: over the sphere; 0: collapsed."),
    "effective_rank": ("Effective rank", "dimensions", "How many directions the space uses."),
    "leakage": ("Leakage", "nats", "What batch statistics alone give away."),
}
_EFFECTS = ("accuracy.raw", "accuracy.shift", "accuracy.rotate", "own.rotate")


class Family(NamedTuple):
    """Variants that share charts."""

    name: str
    legend: list[Key]
    figures: list[Figure]


class ScaleView(NamedTuple):
    """The page's section of one scale."""

    name: str
    about: str
    accuracies: Table
    health: Table
    named: Table
    effects: list[Figure]
    families: list[Family]
    each_seed: Table


class Judged(NamedTuple):
    """A row of the claims' table: cells, and the tone of each verdict."""

    claim: str
    source: str
    verdicts: list[tuple[str, str]]


def write_page(data: AblationData, store: Store) -> list[FileRecord]:
    """Write ablation.html and ablation.md. The same data gives the same bytes."""
    files = {"ablation.html": render_html(data), "ablation.md": render_markdown(data)}
    return [put_bytes(store, name, text.encode()) for name, text in files.items()]


def render_html(data: AblationData) -> str:
    """The ablation as one page."""
    claims = tables.claims(data)
    view: dict[str, Any] = {
        "data": data,
        "created": moment(data.created),
        "result": tables.result_sentence(data),
        "notes": tables.reading_notes(data),
        "claim_columns": claims.columns,
        "claims": [_judged([cell.text for cell in row]) for row in claims.rows],
        "judgements": tables.judgements(data),
        "variants": tables.variants(data),
        "scales": [_scale(data, name, about) for name, about in data.scales.items()],
    }
    return render_page("ablation.html.j2", view)


def render_markdown(data: AblationData) -> str:
    """The ablation in GitHub's Markdown, for the documentation."""
    parts = [f"# {plain(data.title)}"]
    parts += [plain(moment(data.created))] if data.created else []
    parts += [f"**{plain(result)}**"] if (result := tables.result_sentence(data)) else []
    parts += ["## How to read it", "\n".join(f"- {plain(note)}" for note in tables.reading_notes(data))]
    if data.claims:
        parts += ["## Claims", markdown_table(tables.claims(data))]
        parts += ["### As measured", markdown_table(tables.judgements(data))]
    for name, about in data.scales.items():
        parts += [f"## Scale: {plain(name)}", plain(about), markdown_table(tables.accuracies(data, name))]
        parts += ["The end of training:", markdown_table(tables.health(data, name))]
        named = tables.named(data, name)
        parts += [markdown_table(named) if named.rows else "The monitor named nothing."]
        parts += ["Each seed:", markdown_table(tables.each_seed(data, name))]
    parts += ["## Variants", markdown_table(tables.variants(data))]
    return "\n\n".join(parts) + "\n"


def _judged(cells: Sequence[str]) -> Judged:
    return Judged(cells[0], cells[1], [(word, tables.verdict_tone(word)) for word in cells[2:]])


def _scale(data: AblationData, name: str, about: str) -> ScaleView:
    return ScaleView(
        name=name,
        about=about,
        accuracies=tables.accuracies(data, name),
        health=tables.health(data, name),
        named=tables.named(data, name),
        effects=[figure for measure in _EFFECTS for figure in _effects(data, name, measure)],
        families=[_family(data, name, family) for family in _families(data, name)],
        each_seed=tables.each_seed(data, name),
    )


def _effects(data: AblationData, scale: str, measure: str) -> list[Figure]:
    """Each variant against the first, paired by seed; nothing where fewer than two seeds were run."""
    first, *others = data.variants
    rows = []
    for variant in others:
        found = difference(data.trials, scale, (variant, measure), (first, measure))
        if found is not None:
            tone = tables.verdict_tone(verdict(found))
            rows.append(plots.Interval(variant, 100 * found.mean, 100 * ERRORS * found.error, tone))
    if not rows:
        return []
    title = f"Accuracy, {tables.ACCURACIES[measure]}"
    note = f"Difference to {first} in points, mean over seeds with two standard errors."
    return [Figure(title, note, plots.interval_chart(title, rows, "points"), [])]


def _families(data: AblationData, scale: str) -> list[str]:
    """Those of which a variant was tried at this scale."""
    families = [data.variants[name].family for name in tried(data.trials, scale, data.variants)]
    return list(dict.fromkeys(family for family in families if family))


def _family(data: AblationData, scale: str, family: str) -> Family:
    members = [name for name, note in data.variants.items() if note.family in ("", family)]
    trained = [name for name in members if any(_curve(data, scale, name, measure) for measure in CURVES)]
    palette = {name: i for i, name in enumerate(trained)}
    curves = [_drawn(data, scale, measure, trained) for measure in CURVES]
    figures = [curve_figure(curve, palette) for curve in curves if curve.series]
    return Family(family, [Key(name, plots.swatch(colour)) for name, colour in palette.items()], figures)


def _drawn(data: AblationData, scale: str, measure: str, variants: Sequence[str]) -> Curve:
    title, y_label, note = _CHARTS[measure]
    lines = [(name, _curve(data, scale, name, measure)) for name in variants]
    return Curve(
        title=title,
        y_label=y_label,
        note=note,
        series=[Series(name=name, points=points) for name, points in lines if points],
        percent=tables.is_share(measure),
        smooth=True,
    )


def _curve(data: AblationData, scale: str, variant: str, measure: str) -> list[Point]:
    """Mean over the seeds that have the curve, at the steps that all of these have."""
    trials = [trial for trial in data.trials if (trial.scale, trial.variant) == (scale, variant)]
    values = [dict(trial.curves[measure]) for trial in trials if measure in trial.curves]
    if not values:
        return []
    steps = sorted(set.intersection(*(set(points) for points in values)))
    return [(step, sum(points[step] for points in values) / len(values)) for step in steps]
