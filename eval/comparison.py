"""A run beside published values: compared where benchmark, section, metric and split match, over the same languages.

    value         the run's, by language, and its average over exactly the languages that the published average is over
    difference    to one published row; by language where its source has languages
    common        both sides' mean over the languages that both have, where the run lacks some

An average that lacks a language gets no difference: it is shown with a mark and what it lacks, and `common` stands
beside it. A run whose split is not the table's, or that does not say which it is of, or that is of other data than the
official ones (`eval.official_counts`), is not compared; nor is a variant with a star: its calibration has seen the
benchmark's own sentences, which no published system has. The reason is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eval.evaluation_model import EvaluationReport, Score, Scored, Series, series_of
from eval.official_counts import in_short
from eval.published import PublishedRow, PublishedTable


class Compared(NamedTuple):
    """A series in the terms of a published table; fractions."""

    series: Series
    values: dict[str, float]
    average: float | None
    lacks: str = ""

    @property
    def complete(self) -> bool:
        return self.average is not None and not self.lacks


class Difference(NamedTuple):
    """A series minus a published row; None where either side has no number, or the average lacks a language."""

    series: Series
    values: dict[str, float | None]
    average: float | None
    common: float | None
    over: int
    """Languages that `common` is over."""


class Comparison(NamedTuple):
    """A published table with all series that it holds for."""

    table: PublishedTable
    compared: list[Compared]
    against: PublishedRow | None
    refused: list[str]
    """Why runs that have the benchmark are not here."""

    def differences(self) -> list[Difference]:
        """To the chosen row; empty where the table has none of those asked for."""
        return [_difference(one, self.table, self.against) for one in self.compared] if self.against else []


def comparisons(report: EvaluationReport) -> list[Comparison]:
    """All published tables that at least one run has the benchmark and metric of."""
    found = (_compare(report, table) for table in report.published)
    return [comparison for comparison in found if comparison.compared or comparison.refused]


def _compare(report: EvaluationReport, table: PublishedTable) -> Comparison:
    compared, refused = [], []
    for series in series_of(report, table.benchmark, table.section):
        score, scored = series.score(table.benchmark, table.section), series.scored(table.benchmark)
        if score is None or scored is None or table.metric not in score.macro:
            continue
        if scored.split != table.split:
            refused.append(f"{series.run.name}: {_other_split(scored.split, table.split)}; not compared.")
        elif scored.unofficial:
            told = f"is of other data than published values ({in_short(scored.unofficial)})"
            refused.append(f"{series.run.name}: {told}; not compared.")
        elif series.starred:
            refused.append(
                f"{series.run.name}: what has a star is fitted on the benchmark's own sentences; not compared."
            )
        elif (one := _in_terms_of(table, series, score, scored)).average is not None:
            compared.append(one)
    return Comparison(table, compared, table.row(report.against), list(dict.fromkeys(refused)))


def _other_split(found: str | None, wanted: str | None) -> str:
    if found is None:
        return f"does not say which split it is of, published values are of {wanted}"
    return f"is of split {found}, published values are of {wanted or 'a benchmark without splits'}"


def _in_terms_of(table: PublishedTable, series: Series, score: Score, scored: Scored) -> Compared:
    if table.average_of is not None:
        value = score.averages.get(table.average_of, {}).get(table.metric)
        return Compared(series, {}, value, scored.incomplete.get(table.average_of, ""))
    found = {lang: score.parts.get(lang, {}).get(table.metric) for lang in table.languages}
    values = {lang: value for lang, value in found.items() if value is not None}
    average = sum(values.values()) / len(values) if values else None
    missing = [lang for lang in table.languages if lang not in values]
    return Compared(series, values, average, f"lacks {', '.join(missing)}" if missing else "")


def _difference(one: Compared, table: PublishedTable, row: PublishedRow) -> Difference:
    values: dict[str, float | None] = {}
    for lang in table.languages:
        theirs, ours = row.fraction(lang), one.values.get(lang)
        values[lang] = ours - theirs if ours is not None and theirs is not None else None
    average = one.average - row.average / 100 if one.complete and one.average is not None else None
    return Difference(one.series, values, average, *_common(one, row))


def _common(one: Compared, row: PublishedRow) -> tuple[float | None, int]:
    """The mean difference over the languages of both, where the averages are not over the same."""
    shared: Sequence[str] = [lang for lang in one.values if lang in row.values]
    theirs = row.mean_over(shared)
    if one.complete or theirs is None:
        return None, 0
    return sum(one.values[lang] for lang in shared) / len(shared) - theirs, len(shared)
