"""The report as Markdown: the same tables and figures as the page, charts as their first, extreme and last values.

Everything that is not ours is escaped, so that neither a title nor a path can become markup, HTML or another cell.
"""

from __future__ import annotations

import re

from eval import report_tables as tables
from eval.report_model import Curve, ReportData, RetrievalTable
from eval.report_tables import Cell, Table

_BEST = " ★"


def render_markdown(data: ReportData, result: str) -> str:
    """The report in GitHub's Markdown. `result` is its one sentence, or empty."""
    parts = [f"# {plain(data.title)}"]
    parts += [plain(tables.moment(data.created))] if data.created else []
    parts += [f"**{plain(result)}**"] if result else []
    if data.headline:
        parts.append("\n".join(f"- **{plain(label)}:** {plain(value)}" for label, value in data.headline))
    parts += _retrieval(data.retrieval)
    if data.context and data.context.rows:
        parts += ["## Context retrieval", *_noted(tables.context(data.context), data.context.note)]
    if data.projections:
        parts += ["## Embeddings in the plane", markdown_table(tables.projections(data.projections))]
    parts += _curves("Training", [curve for curve in data.curves if curve.section == "training"])
    health = _curves("Health of the embedding space", [curve for curve in data.curves if curve.section == "health"])
    if data.verdict:
        health = [*(health[:1] or ["## Health of the embedding space"]), plain(data.verdict), *health[1:]]
    parts += health
    parts += ["## Throughput", markdown_table(tables.stages(data.stages))] if data.stages else []
    parts += ["## Artifacts", markdown_table(tables.artifacts(data.artifacts))] if data.artifacts else []
    parts += ["## Configuration", _block(data.config_yaml, "yaml")] if data.config_yaml else []
    if data.environment:
        parts.append("## Environment")
        parts.append("\n".join(f"- {plain(name)}: {plain(value)}" for name, value in data.environment.items()))
    return "\n\n".join(parts) + "\n"


def _retrieval(data: list[RetrievalTable]) -> list[str]:
    parts = ["## Retrieval by language pair"] if data else []
    for table in data:
        parts += [f"### {plain(table.name)}", *_noted(tables.retrieval(table), table.note)]
        if both := tables.directions(table):
            parts += ["Both directions, forward / backward:", markdown_table(both)]
    return parts


def _curves(heading: str, curves: list[Curve]) -> list[str]:
    table = tables.curves(curves)
    return [f"## {heading}", markdown_table(table)] if table.rows else []


def _noted(table: Table, note: str) -> list[str]:
    star = "In %; ★ marks the best of a row." if any(c.best for row in table.rows for c in row) else "In %."
    return [" ".join(part for part in (plain(note), star) if part), markdown_table(table)]


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown."""
    rules = [" --- " if i < table.texts else " ---: " for i in range(len(table.columns))]
    lines = [_row([plain(column) for column in table.columns]), f"|{'|'.join(rules)}|"]
    for i, row in enumerate(table.rows):
        bold = table.total and i == len(table.rows) - 1
        lines.append(_row([_cell(cell, bold) for cell in row]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, bold: bool) -> str:
    text = _code(cell.text) if cell.code else plain(cell.text)
    return (f"**{text}**" if bold and text else text) + (_BEST if cell.best else "")


def plain(text: str) -> str:
    """Text that stays text: one line, no markup, no HTML."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)


def _code(text: str) -> str:
    """A code span, in a table: fenced by more backticks than the text holds, pipes escaped."""
    line = " ".join(text.split()).replace("|", r"\|")
    fence = "`" * (_longest_run(line) + 1)
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


def _block(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
