"""The report of a run: one self-contained HTML page, the same as Markdown, and the data behind both as JSON.

    data = ReportData(title="...", retrieval=[...], curves=from_metrics(rows), ...)
    write_report(data, store)        report.html, report.md, report.json

The page makes no request, needs no script and follows the reader's dark or light setting; its charts are inline SVG.
Four languages with 400 projected sentences each give 123 kB. A section stands there exactly when its data does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.storage import Store
from eval import plots, report_tables
from eval.page import Figure, Key, curve_figure, render_page
from eval.report_curves import from_metrics
from eval.report_markdown import render_markdown as _markdown
from eval.report_model import Context, Curve, Projection, ReportData, RetrievalTable
from eval.svg import Svg

__all__ = ["ReportData", "from_metrics", "render_html", "render_markdown", "result_sentence", "write_report"]


def write_report(data: ReportData, store: Store) -> list[FileRecord]:
    """Write report.html, report.md and report.json. The same data gives the same bytes."""
    files = {
        "report.html": render_html(data),
        "report.md": render_markdown(data),
        "report.json": data.model_dump_json(indent=1) + "\n",
    }
    return [put_bytes(store, name, text.encode()) for name, text in files.items()]


def render_markdown(data: ReportData) -> str:
    """The report in GitHub's Markdown."""
    return _markdown(data, data.result or result_sentence(data))


def render_html(data: ReportData) -> str:
    """The report as one page."""
    colours = _language_colours(data)
    health = [curve for curve in data.curves if curve.section == "health"]
    view: dict[str, Any] = {
        "data": data,
        "result": data.result or result_sentence(data),
        "t": report_tables,
        "bars": _bars,
        "dumbbells": _dumbbells(data.context),
        "panels": [_panel(panel, colours) for panel in data.projections],
        "panel_legend": _legend(colours, [p.lang for panel in data.projections for p in panel.points], marker=True),
        "training": _figures(data.curves, "training", colours),
        "health": _figures(data.curves, "health", colours),
        "health_legend": _legend(colours, [s.name for c in health if c.by_language for s in c.series]),
    }
    return render_page("report.html.j2", view)


def result_sentence(data: ReportData) -> str:
    """The first table in one sentence: its first variant against its best one; empty without a mean over pairs."""
    for table in data.retrieval:
        columns, best = report_tables.macro_columns(table), report_tables.best_column(table)
        if best is None:
            continue
        first = columns[0]
        low, high = table.macro[first].mean, table.macro[best].mean
        pairs = f"mean of {len(table.rows)} language pairs" if len(table.rows) != 1 else table.rows[0].pair
        if best == first:
            return f"{table.name}: {100 * low:.1f} % top-1 accuracy ({first}, {pairs})."
        times = f", {high / low:.1f} times as much" if low > 0 else ""
        figures = f"from {100 * low:.1f} % ({first}) to {100 * high:.1f} % ({best}){times}"
        return f"{table.name}: top-1 accuracy rises {figures} ({pairs})."
    return ""


def _language_colours(data: ReportData) -> dict[str, int]:
    """One colour a language on the whole page."""
    projected = {point.lang for panel in data.projections for point in panel.points}
    drawn = {s.name for curve in data.curves if curve.by_language for s in curve.series if not s.reference}
    return {lang: i for i, lang in enumerate(sorted(projected | drawn))}


def _legend(colours: dict[str, int], shown: Sequence[str], marker: bool = False) -> list[Key]:
    used = set(shown)
    return [Key(lang, plots.swatch(colour, marker)) for lang, colour in colours.items() if lang in used]


def _bars(table: RetrievalTable) -> Svg | None:
    """The means over pairs as bars; None where there is nothing to compare."""
    bars = [(column, table.macro[column].mean) for column in report_tables.macro_columns(table)]
    best = report_tables.best_column(table)
    return plots.bar_chart(f"{table.name}, mean of pairs", bars, best) if best and len(bars) > 1 else None


def _dumbbells(context: Context | None) -> Figure | None:
    if context is None or not any(row.before is not None or row.after is not None for row in context.rows):
        return None
    names = ["before", "after", "after, calibrated"]
    rows = [plots.Dumbbell(row.lang, (row.before, row.after, row.calibrated), row.chance) for row in context.rows]
    shown = [k for k in range(len(names)) if any(row.values[k] is not None for row in rows)]
    legend = [Key(names[k], plots.time_swatch(k)) for k in shown]
    if any(row.reference is not None for row in rows):
        legend.append(Key("chance", plots.time_swatch(None)))
    return Figure("", "", plots.dumbbell_chart("Context retrieval", rows, names), legend)


def _panel(panel: Projection, colours: dict[str, int]) -> Figure:
    points = [(point.lang, point.x, point.y) for point in panel.points]
    share = f"{100 * report_tables.language_share(panel):.0f} % of the spread is between languages."
    note = f"{panel.note} {share}".strip()
    return Figure(panel.title, note, plots.scatter(panel.title, points, colours, panel.links), [])


def _figures(curves: Sequence[Curve], section: str, colours: dict[str, int]) -> list[Figure]:
    drawn = [curve for curve in curves if curve.section == section and any(series.points for series in curve.series)]
    return [curve_figure(curve, colours if curve.by_language else None) for curve in drawn]
