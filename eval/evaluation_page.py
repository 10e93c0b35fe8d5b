"""A report of evaluations in all of its formats, from `EvaluationReport` alone.

    write_evaluation_report(report, store)        report.html, report.md, report.tex, report.json

The page is one file without script or request, dark and light, as all of ours. Its charts: what each calibration step
brings (a group a step, a bar a run), and values by language with the published ones as ticks. One run of 100 languages
by cosine and by margin, four variants each, takes 1.3 s of one core with the start of Python, and makes 177 kB.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.storage import Store
from eval.comparison import comparisons
from eval.evaluation_blocks import Block, blocks, result_sentence
from eval.evaluation_model import (
    EvaluationReport,
    Series,
    last_variants,
    series_of,
)
from eval.grouped_bars import Group, bar_swatch, grouped_bars, is_wide, reference_swatch
from eval.metric_names import headline_metrics, variant_label
from eval.page import Figure, Key, curve_figure, render_page
from eval.report_latex import render_latex
from eval.report_markdown import markdown_table, plain

_PARTS = 3  # a chart by language of fewer says no more than its table


class Chart(NamedTuple):
    """A figure, and whether it takes the whole width."""

    figure: Figure
    wide: bool


class Shown(NamedTuple):
    """A block on the page."""

    block: Block
    figures: list[Figure]
    wide: list[Figure]


def write_evaluation_report(report: EvaluationReport, store: Store) -> list[FileRecord]:
    """Write all formats. The same data gives the same bytes."""
    files = {
        "report.html": render_html(report),
        "report.md": render_markdown(report),
        "report.tex": render_latex(report.title, blocks(report)),
        "report.json": report.model_dump_json(indent=1) + "\n",
    }
    return [put_bytes(store, name, text.encode()) for name, text in files.items()]


def render_markdown(report: EvaluationReport) -> str:
    """The report in GitHub's Markdown."""
    parts = [f"# {plain(report.title)}", f"**{plain(result_sentence(report))}**"]
    for block in blocks(report):
        parts += [f"## {plain(block.title)}", *([" ".join(map(plain, block.notes))] if block.notes else [])]
        for titled in block.tables:
            parts += [f"### {plain(titled.title)}"] if titled.title else []
            parts.append(markdown_table(titled.table))
    return "\n\n".join(parts) + "\n"


def render_html(report: EvaluationReport) -> str:
    """The report as one page."""
    shown = [_shown(report, block) for block in blocks(report)]
    bad = any(finding.failed() for finding in report.findings)
    view = {"report": report, "result": result_sentence(report), "shown": shown, "bad": bad}
    return render_page("evaluation.html.j2", view)


def _shown(report: EvaluationReport, block: Block) -> Shown:
    if block.id == "training":
        return Shown(block, [curve_figure(curve, None) for curve in report.curves], [])
    if block.id != f"benchmark-{block.benchmark}":
        return Shown(block, [], [])
    score = series_of(report, block.benchmark)[0].score(block.benchmark, "")
    metrics = headline_metrics(score.metrics()) if score else []
    made = [chart for metric in metrics if (chart := _gain(report, block.benchmark, metric))]
    made += [chart for metric in metrics if (chart := _by_part(report, block.benchmark, metric))]
    return Shown(block, [one.figure for one in made if not one.wide], [one.figure for one in made if one.wide])


def _gain(report: EvaluationReport, benchmark: str, metric: str) -> Chart | None:
    """The mean after each step of the calibration; None where there is one variant only."""
    series = series_of(report, benchmark)
    variants = list(dict.fromkeys(one.variant for one in series))
    names = [run.name for run in report.runs if benchmark in run.benchmarks]
    if len(variants) < 2:
        return None
    values = {(one.variant, one.run.name): _macro(one, benchmark, metric) for one in series}
    groups = [Group(variant_label(v), [values.get((v, name)) for name in names]) for v in variants]
    legend = [Key(name, bar_swatch(i)) for i, name in enumerate(names)] if len(names) > 1 else []
    title = f"{metric} after each step"
    figure = Figure(title, "Mean of all languages.", grouped_bars(title, groups, names), legend)
    return Chart(figure, is_wide(groups, names))


def _by_part(report: EvaluationReport, benchmark: str, metric: str) -> Chart | None:
    """Values by language: of one run before and after calibration, of several runs after it."""
    series = series_of(report, benchmark)
    drawn = _drawn(series)
    scores = [one.score(benchmark, "") for one in drawn]
    parts = list(dict.fromkeys(part for score in scores if score for part in score.parts))
    if len(parts) < _PARTS:
        return None
    system, levels = _levels(report, benchmark, metric)
    groups = [
        Group(part, [s.parts.get(part, {}).get(metric) if s else None for s in scores], levels.get(part))
        for part in parts
    ]
    names = [one.label for one in drawn]
    legend = [Key(name, bar_swatch(i)) for i, name in enumerate(names)]
    legend += [Key(f"{system}, published", reference_swatch())] if system else []
    kind = next((score.kind for score in scores if score), "language")
    title = f"{metric} by {kind}"
    return Chart(Figure(title, "", grouped_bars(title, groups, names), legend), is_wide(groups, names))


def _drawn(series: list[Series]) -> list[Series]:
    last = last_variants(series)
    first = series[0]
    return last if len(last) > 1 or last[0] == first else [first, *last]


def _levels(report: EvaluationReport, benchmark: str, metric: str) -> tuple[str, dict[str, float]]:
    """The chosen published row's values by language, where the comparison holds."""
    for found in comparisons(report):
        same = (found.table.benchmark, found.table.section, found.table.metric) == (benchmark, "", metric)
        if same and found.compared and found.against is not None and found.against.values:
            return found.against.system, {lang: value / 100 for lang, value in found.against.values.items()}
    return "", {}


def _macro(one: Series, benchmark: str, metric: str) -> float | None:
    score = one.score(benchmark, "")
    return score.macro.get(metric) if score else None
