"""A report of evaluations as a list of blocks: heading, notes, tables. Every format is made from these and no other.

The result is said in one sentence: the check's, else the first difference to a published average, else the first
benchmark's averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from eval import evaluation_tables as tables
from eval.comparison import Comparison, comparisons
from eval.evaluation_model import EvaluationReport, ends, last_variants, series_of
from eval.metric_names import headline_metrics
from eval.report_tables import Table, curves, percent

_STARRED = (
    "With a star the calibration is fitted on the benchmark's own sentences, each language alone; it is not compared "
    "with published values."
)
_TOP = "Languages of the best candidates: of the ten best of a question, the share in each language; a row is 100 %."


class Titled(NamedTuple):
    """A table under a title; one that is not `shown` is folded away on the page."""

    title: str
    table: Table
    shown: bool = True


class Block(NamedTuple):
    """A part of the report."""

    id: str
    title: str
    notes: list[str]
    tables: list[Titled]
    benchmark: str = ""


def blocks(report: EvaluationReport) -> list[Block]:
    """All parts in order."""
    made = [_check(report)] if report.findings else []
    made.append(Block("overview", "Overview", [_reading(report)], [Titled("", tables.overview(report))]))
    made += [_comparison(report, number, found) for number, found in enumerate(comparisons(report))]
    made += [_benchmark(report, name) for name in report.benchmarks()]
    if table := curves(report.curves) if report.curves else None:
        made.append(Block("training", "During training", [], [Titled("First, lowest, highest and last", table, False)]))
    lacking = [f"{run.name}: no data for {', '.join(run.missing)}." for run in report.runs if run.missing]
    made.append(Block("runs", "Runs", lacking, [Titled("", tables.runs(report))]))
    return made


def result_sentence(report: EvaluationReport) -> str:
    """The report in one sentence."""
    if report.findings:
        failed = sum(finding.failed() for finding in report.findings)
        better = sum(finding.verdict == "better" for finding in report.findings)
        count = len(report.findings)
        first = f"{failed} of {count} expected values are not reached" if failed else f"All {count} expected values met"
        return first + (f"; {better} better than expected." if better else ".")
    return _gap(comparisons(report)) or _first_average(report)


def _gap(found: Sequence[Comparison]) -> str:
    """The first table with a difference: the first run before its calibration, every run after it."""
    for comparison in found:
        gaps = {tables.ours(one.series): one.average for one in comparison.differences() if one.average is not None}
        if not gaps or comparison.against is None:
            continue
        last = last_variants([one.series for one in comparison.compared if tables.ours(one.series) in gaps])
        told = dict.fromkeys([next(iter(gaps)), *map(tables.ours, last)])
        words = ", ".join(f"{name} {tables.points(gaps[name])}" for name in told)
        table = comparison.table
        return f"{tables.title_of(table.benchmark)}, {table.metric}, points to {comparison.against.system}: {words}."
    return ""


def _first_average(report: EvaluationReport) -> str:
    """Of one run every variant; of several the first before its calibration, every one after it."""
    benchmark = report.benchmarks()[0]
    series = series_of(report, benchmark)
    metric = headline_metrics(series[0].run.benchmarks[benchmark].variants[series[0].variant][""].metrics())[0]
    told = [series[0], *last_variants(series)] if len(report.runs) > 1 else series
    found = {one.label: score.macro.get(metric) for one in told if (score := one.score(benchmark, ""))}
    words = list(dict.fromkeys(tables.lacks(benchmark, "", "macro", one, series) for one in series))
    note = f" (the mean {'; '.join(word for word in words if word)})" if any(words) else ""
    scores = ", ".join(f"{label} {percent(value)} %" for label, value in found.items())
    return f"{tables.title_of(benchmark)}, {metric}: {scores}{note}."


def _reading(report: EvaluationReport) -> str:
    star = f" {_STARRED}" if any(_has_starred(report, name) for name in report.benchmarks()) else ""
    return (
        "In %. Steps of the calibration add up: + rotate holds shift and scale. "
        f"{tables.DAGGER}: the average lacks languages and is not compared.{star}"
    )


def _has_starred(report: EvaluationReport, benchmark: str) -> bool:
    return any(one.starred for one in series_of(report, benchmark))


def _check(report: EvaluationReport) -> Block:
    note = "In %. A value below what is expected by more than its tolerance falls short."
    notable = [finding for finding in report.findings if finding.verdict != "met"]
    shown = [Titled("", tables.check(notable))] if notable else []
    shown.append(Titled("All expected values", tables.check(report.findings), shown=False))
    return Block("check", "Check against expected values", [note], shown)


def _comparison(report: EvaluationReport, number: int, found: Comparison) -> Block:
    table = found.table
    split = f", {table.split}" if table.split else ""
    average = f", mean of the {table.average_of}" if table.average_of else ""
    title = (
        f"{tables.title_of(table.benchmark, table.section)}: {table.metric}{average}{split}, beside published values"
    )
    notes = [note for note in ("In %.", table.caveat, *found.refused) if note]
    marked = [f"{tables.DAGGER} {one.series.run.name}: {one.lacks}." for one in found.compared if one.lacks]
    notes += list(dict.fromkeys(marked))
    notes += [f"Sources: {'; '.join(dict.fromkeys(row.source for row in table.rows))}."]
    shown = [Titled("", tables.published(found))]
    difference = tables.differences(found)
    if found.against is None and report.against:
        notes.append(f"{' and '.join(report.against)} not among them: no difference is taken.")
    elif found.against is not None and difference is not None:
        shown.append(Titled(f"Difference to {found.against.system}, in points", difference))
    elif found.compared:
        notes.append("No difference is taken: the averages are not over the same languages.")
    return Block(f"published-{number}", title, notes, shown, table.benchmark)


def _top(report: EvaluationReport, benchmark: str) -> list[Titled]:
    """Which languages are preferred, of each run before and after all steps of its calibration."""
    return [
        Titled(f"Languages of the best candidates, {tables.ours(one)}", tables.top_languages(score.top))
        for one in ends(series_of(report, benchmark))
        if (score := one.score(benchmark, "")) and score.top
    ]


def _benchmark(report: EvaluationReport, benchmark: str) -> Block:
    shown, notes = [], ["In %."]
    splits = {run.benchmarks[benchmark].split for run in report.runs if benchmark in run.benchmarks} - {None}
    notes += [f"Split: {', '.join(sorted(str(split) for split in splits))}."] if splits else []
    notes += [_STARRED] if _has_starred(report, benchmark) else []
    for section in tables.sections_of(report, benchmark):
        notes += tables.incomplete_notes(report, benchmark, section)
        scores = [score for one in series_of(report, benchmark, section) if (score := one.score(benchmark, section))]
        metrics = list(dict.fromkeys(metric for score in scores for metric in score.macro))
        first = headline_metrics(metrics) if not section else []
        for metric in [*first, *(name for name in metrics if name not in first)]:
            title = f"{section.replace('.', ', ')}: {metric}" if section else metric
            shown.append(Titled(title, tables.by_part(report, benchmark, section, metric), metric in first))
    biased = _top(report, benchmark)
    notes += [_TOP] if biased else []
    shown += biased
    return Block(f"benchmark-{benchmark}", tables.title_of(benchmark), list(dict.fromkeys(notes)), shown, benchmark)
