"""The report's tables and figures as text, shared by the page and the Markdown: both say the same by construction.

Numbers have fixed decimals and thousands separators; accuracies are in %. What a whole column lacks is left out;
what a single cell lacks is a dash. Ties for the best of a row are judged at the precision that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from eval.plot_scales import MINUS, scientific
from eval.report_model import (
    ArtifactRow,
    Context,
    ContextRow,
    Curve,
    Projection,
    RetrievalTable,
    Score,
    StageRow,
)

MISSING = "–"  # noqa: RUF001 - an en dash is what tables use for nothing
Row = TypeVar("Row")


class Cell(NamedTuple):
    """What stands in one place of a table."""

    text: str
    best: bool = False
    code: bool = False
    tone: str = ""  # good, bad or neutral: the page colours it
    heat: float | None = None  # 0 to 1: the page shades it


class Table(NamedTuple):
    """Columns are numbers but for the first `texts`; `total`: the last row sums the others up."""

    columns: list[str]
    rows: list[list[Cell]]
    texts: int = 1
    total: bool = False


def percent(value: float | None, unit: str = "") -> str:
    """A fraction as 43.1."""
    return MISSING if value is None else f"{100 * value:.1f}{unit}"


def count(value: float | None) -> str:
    """A whole number as 12,345."""
    return MISSING if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes as 1.23 GiB."""
    if value is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} B" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as 12.3 s, 4 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def moment(text: str) -> str:
    """A time in ISO 8601 as 2025-11-23 21:40 UTC; any other text as it is."""
    iso = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)", text)
    return f"{iso[1]} {iso[2]} UTC" if iso else text


def figure(value: float) -> str:
    """Any measurement, with decimals that fit its size."""
    if value and abs(value) < 1e-3:
        return scientific(value, 1)
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def macro_columns(table: RetrievalTable) -> list[str]:
    """The variants whose mean over pairs is known, in order."""
    return [column for column in table.columns if column in table.macro]


def best_column(table: RetrievalTable) -> str | None:
    """The variant with the highest mean over pairs; the first of equals."""
    known = macro_columns(table)
    return max(known, key=lambda column: round(table.macro[column].mean, 3)) if known else None


def retrieval(table: RetrievalTable) -> Table:
    """Accuracy by pair and variant, the mean over pairs last."""
    rows = [[Cell(row.pair), *_scores([row.values.get(column) for column in table.columns])] for row in table.rows]
    if table.macro:
        rows.append([Cell("mean"), *_scores([table.macro.get(column) for column in table.columns])])
    return Table(["pair", *table.columns], rows, total=bool(table.macro))


def directions(table: RetrievalTable) -> Table | None:
    """Both directions of each pair, forward / backward; None where they were not measured."""
    values = [(row.pair, row.values) for row in table.rows] + ([("mean", table.macro)] if table.macro else [])
    if all(score.forward is None and score.backward is None for _, scores in values for score in scores.values()):
        return None
    rows = [[Cell(pair), *(Cell(_both(scores.get(column))) for column in table.columns)] for pair, scores in values]
    return Table(["pair", *table.columns], rows, total=bool(table.macro))


def context(data: Context) -> Table:
    """Context retrieval by language, the mean over languages last."""
    accuracies: list[tuple[str, Callable[[ContextRow], float | None]]] = [
        ("before", lambda row: row.before),
        ("after", lambda row: row.after),
        ("after, calibrated", lambda row: row.calibrated),
        ("chance", lambda row: row.chance),
    ]
    kept = [(name, get) for name, get in accuracies if any(get(row) is not None for row in data.rows)]
    with_n = any(row.n is not None for row in data.rows)
    judged = [name != "chance" for name, _ in kept]
    rows = []
    for row in data.rows:
        last = [Cell(count(row.n))] if with_n else []
        rows.append([Cell(row.lang), *_best([get(row) for _, get in kept], judged), *last])
    if total := len(data.rows) > 1:
        means = [_mean([get(row) for row in data.rows]) for _, get in kept]
        rows.append([Cell("mean"), *_best(means, judged), *([Cell("")] if with_n else [])])
    return Table(["language", *(name for name, _ in kept), *(["sentences"] if with_n else [])], rows, total=total)


def stages(data: Sequence[StageRow]) -> Table:
    """What each stage took; total time last."""
    columns: list[tuple[str, Callable[[StageRow], str]]] = [
        ("time", lambda row: duration(row.seconds)),
        ("rows", lambda row: count(row.rows)),
        ("rows/s", lambda row: count(row.rows_per_s)),
        ("tokens/s", lambda row: count(row.tokens_per_s)),
        ("padding efficiency", lambda row: percent(row.padding_efficiency, " %")),
        ("peak memory", lambda row: size(row.peak_memory_bytes)),
    ]
    table = _listed(data, [("stage", lambda row: Cell(row.stage))], columns)
    if len(data) < 2:
        return table
    total = [Cell("all"), Cell(duration(sum(row.seconds for row in data)))]
    return table._replace(rows=[*table.rows, total + [Cell("")] * (len(table.columns) - 2)], total=True)


def artifacts(data: Sequence[ArtifactRow]) -> Table:
    """Where the results lie; fingerprints cut to twelve characters."""
    texts: list[tuple[str, Callable[[ArtifactRow], Cell]]] = [
        ("stage", lambda row: Cell(row.stage)),
        ("kind", lambda row: Cell(row.kind)),
        ("URI", lambda row: Cell(row.uri, code=True)),
        ("fingerprint", lambda row: Cell(row.fingerprint[:12], code=True)),
    ]
    return _listed(data, texts, [("files", lambda row: count(row.files)), ("size", lambda row: size(row.bytes))])


def curves(data: Sequence[Curve]) -> Table:
    """First, lowest, highest and last value of each line."""
    rows = []
    for curve in data:
        for series in curve.series:
            if ys := [y for _, y in series.points]:
                shown = [percent(y, " %") if curve.percent else figure(y) for y in (ys[0], min(ys), max(ys), ys[-1])]
                steps = f"{series.points[0][0]:,g} to {series.points[-1][0]:,g}"
                rows.append([Cell(curve.title), Cell(series.name), *map(Cell, [steps, *shown])])
    return Table(["curve", "line", "steps", "first", "lowest", "highest", "last"], rows, texts=2)


def projections(data: Sequence[Projection]) -> Table:
    """What the panels show, as one number each: how much of the spread is between languages."""
    rows = [
        [Cell(panel.title), Cell(count(len(panel.points))), Cell(percent(language_share(panel), " %"))]
        for panel in data
    ]
    return Table(["panel", "sentences", "spread that is between languages"], rows)


def language_share(panel: Projection) -> float:
    """Variance of the languages' middles over that of all points in the plane: 1 apart, 0 over each other."""
    points_N2 = np.array([(point.x, point.y) for point in panel.points])
    languages = np.array([point.lang for point in panel.points])
    middle_2 = points_N2.mean(axis=0)
    total = float(((points_N2 - middle_2) ** 2).sum())
    if total == 0:
        return 0.0
    groups = [points_N2[languages == lang] for lang in sorted(set(languages))]
    return float(sum(len(own_N2) * ((own_N2.mean(axis=0) - middle_2) ** 2).sum() for own_N2 in groups)) / total


def _listed(
    data: Sequence[Row],
    texts: Sequence[tuple[str, Callable[[Row], Cell]]],
    numbers: Sequence[tuple[str, Callable[[Row], str]]],
) -> Table:
    """A row for each item, without the number columns that no item has."""
    kept = [(name, get) for name, get in numbers if any(get(row) != MISSING for row in data)]
    rows = [[*(get(row) for _, get in texts), *(Cell(get(row)) for _, get in kept)] for row in data]
    return Table([name for name, _ in [*texts, *kept]], rows, texts=len(texts))


def _scores(scores: Sequence[Score | None]) -> list[Cell]:
    return _best([score.mean if score else None for score in scores], [True] * len(scores))


def _best(values: Sequence[float | None], judged: Sequence[bool]) -> list[Cell]:
    """Percentages; of those judged the highest is marked: all of the equals, none if there is nothing to compare."""
    shown = [percent(value) for value in values]
    known = {
        text: value for value, text, among in zip(values, shown, judged, strict=True) if among and value is not None
    }
    top = max(known, key=lambda text: known[text]) if len(known) > 1 else None
    return [Cell(text, best=among and text == top) for text, among in zip(shown, judged, strict=True)]


def _both(score: Score | None) -> str:
    return f"{percent(score.forward)} / {percent(score.backward)}" if score else MISSING


def _mean(values: Sequence[float | None]) -> float | None:
    """Over all rows; None if one lacks it, as a mean over others would not compare."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
