"""The tables of a report of evaluations, shared by all of its formats: they say the same by construction.

Numbers are per cent, differences points. An average with a dagger lacks languages: it is neither marked as the best nor
compared. Of a run with several parts missing, its average is marked too where another run in the row has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.comparison import Compared, Comparison, Difference
from eval.evaluation_model import EvaluationReport, Score, Series, series_of
from eval.expected import Finding
from eval.metric_names import headline_metrics
from eval.plot_scales import MINUS
from eval.report_tables import MISSING, Cell, Table, count, moment, percent

DAGGER = "†"
_TITLES = {
    "tatoeba": "Tatoeba",
    "xquad_r": "XQuAD-R",
    "mrtydi": "Mr. TyDi",
    "xor_retrieve": "XOR-Retrieve",
    "translations": "Translated test sentences",
    "context": "Held-out context retrieval",
}
_TONES = {"met": "neutral", "better": "good", "short": "bad", "missing": "bad"}
_WORDS = {"met": "as expected", "better": "better than expected", "short": "falls short", "missing": "not in the run"}


def title_of(benchmark: str, section: str = "") -> str:
    """A benchmark as people write it, with the section in it."""
    name = _TITLES.get(benchmark, benchmark)
    return f"{name}, {section.replace('.', ', ')}" if section else name


def lacks(benchmark: str, section: str, average: str, one: Series, among: Sequence[Series]) -> str:
    """What a series' "macro" or other average lacks: by its own word, or of what others in the row have."""
    scored, score = one.scored(benchmark), one.score(benchmark, section)
    if scored is None or score is None:
        return ""
    if average in scored.incomplete:
        return scored.incomplete[average]
    if average != "macro":
        return ""
    others = (other.score(benchmark, section) for other in among)
    missing = [part for other in others if other for part in other.parts if part not in score.parts]
    return f"lacks {', '.join(dict.fromkeys(missing))}" if missing else ""


def overview(report: EvaluationReport) -> Table:
    """Every average of every benchmark by its headline metrics, all series across."""
    series = [one for run in report.runs for one in _all_series(report) if one.run.name == run.name]
    labels = list(dict.fromkeys(one.label for one in series))
    rows = []
    for benchmark in report.benchmarks():
        for section in sections_of(report, benchmark):
            series = series_of(report, benchmark, section)
            scores = [score for one in series if (score := one.score(benchmark, section))]
            averages = list(dict.fromkeys(name for score in scores for name in score.averages))
            for metric in headline_metrics(list(dict.fromkeys(m for score in scores for m in score.macro))):
                for average in [*averages, "macro"]:
                    found = _row(benchmark, section, average, metric, series)
                    cells = dict(zip([one.label for one in series], found, strict=True))
                    first = [Cell(title_of(benchmark, section)), Cell(f"{metric}{_of(average)}")]
                    rows.append([*first, *(cells.get(label, Cell(MISSING)) for label in labels)])
    return Table(["benchmark", "metric", *labels], rows, texts=2)


def by_part(report: EvaluationReport, benchmark: str, section: str, metric: str) -> Table:
    """Pairs or languages down, series across; named averages and the mean over all below. Pairs have their lines."""
    series = series_of(report, benchmark, section)
    scores = [score for one in series if (score := one.score(benchmark, section))]
    parts = list(dict.fromkeys(part for score in scores for part in score.parts))
    lines = ["lines"] if any(score.lines for score in scores) else []
    rows = []
    for part in parts:
        values = [score.parts.get(part, {}).get(metric) for score in scores]
        counts = [Cell(_lines(part, scores)) for _ in lines]
        rows.append([Cell(part), *counts, *_best(values, [True] * len(values), shaded=True)])
    averages = list(dict.fromkeys(name for score in scores for name in score.averages))
    for average in [*averages, "macro"]:
        name = "mean" if average == "macro" else f"mean of the {average}"
        none = [Cell("") for _ in lines]
        rows.append([Cell(name), *none, *_row(benchmark, section, average, metric, series)])
    kind = next((score.kind for score in scores), "language")
    return Table([kind, *lines, *(one.label for one in series)], rows, total=bool(parts))


def _lines(part: str, scores: Sequence[Score]) -> str:
    """How many lines a pair has; where runs read different files, each count."""
    found = dict.fromkeys(score.lines[part] for score in scores if part in score.lines)
    return " / ".join(map(count, found)) or MISSING


def top_languages(top: Mapping[str, Mapping[str, float]]) -> Table:
    """Languages of questions down, of their best candidates across; a row is 100 %."""
    languages = list(dict.fromkeys(lang for shares in top.values() for lang in shares))
    mean = {lang: sum(shares.get(lang, 0.0) for shares in top.values()) / len(top) for lang in languages}
    rows = [
        [Cell(name), *(Cell(percent(shares.get(lang, 0.0)), heat=shares.get(lang, 0.0)) for lang in languages)]
        for name, shares in [*top.items(), ("mean", mean)]
    ]
    return Table(["question", *languages], rows, total=True)


def incomplete_notes(report: EvaluationReport, benchmark: str, section: str) -> list[str]:
    """What each dagger of a section means."""
    series, notes = series_of(report, benchmark, section), []
    scores = [score for one in series if (score := one.score(benchmark, section))]
    for average in dict.fromkeys(name for score in scores for name in [*score.averages, "macro"]):
        what = "mean" if average == "macro" else f"mean of the {average}"
        words = [(one.run.name, lacks(benchmark, section, average, one, series)) for one in series]
        notes += [f"{DAGGER} {name}, {what}: {word}." for name, word in words if word]
    return list(dict.fromkeys(notes))


def published(comparison: Comparison) -> Table:
    """Published systems and then ours, languages across where anyone has them."""
    table = comparison.table
    known = any(row.values for row in table.rows) or any(one.values for one in comparison.compared)
    languages = table.languages if known else []
    rows = [
        _cells(
            row.system, row.setting, *(percent(row.fraction(lang)) for lang in languages), percent(row.average / 100)
        )
        for row in table.rows
    ]
    for one in comparison.compared:
        values = [percent(one.values.get(lang)) for lang in languages]
        rows.append(_cells(ours(one.series), "this report", *values, _marked(one)))
    return Table(["system", "trained on", *languages, "average"], rows, texts=2)


def differences(comparison: Comparison) -> Table | None:
    """Ours minus the chosen row, in points; None where there is nothing to subtract."""
    found = comparison.differences()
    if all(value is None for one in found for value in (*one.values.values(), one.average)):
        return None
    languages = [lang for lang in comparison.table.languages if any(d.values.get(lang) is not None for d in found)]
    shared = any(one.common is not None for one in found)
    rows = [
        [Cell(ours(one.series)), *(_points(one.values.get(lang)) for lang in languages), _points(one.average)]
        + ([_common(one)] if shared else [])
        for one in found
    ]
    return Table(["run", *languages, "average", *(["languages of both"] if shared else [])], rows)


def check(findings: Sequence[Finding]) -> Table:
    """Expectations and what became of them, failures first."""
    ordered = sorted(findings, key=lambda one: not one.failed())
    rows = [
        [
            *_cells(one.run, f"{title_of(one.benchmark)}, {one.variant}", one.name),
            *_cells(percent(one.value), percent(one.tolerance), percent(one.found)),
            Cell(
                _WORDS[one.verdict] + (f"{DAGGER} ({one.incomplete})" if one.incomplete else ""),
                tone=_TONES[one.verdict],
            ),
        ]
        for one in ordered
    ]
    return Table(["run", "benchmark", "value", "expected", "±", "found", "verdict"], rows, texts=3)


def runs(report: EvaluationReport) -> Table:
    """Where each run's scores come from."""
    rows = [
        [
            Cell(run.name),
            Cell(source.scored or MISSING, code=bool(source.scored)),
            *(Cell(text, code=True) for text in (source.uri, source.fingerprint[:12])),
            Cell(moment(source.created) or MISSING),
        ]
        for run in report.runs
        for source in run.sources
    ]
    return Table(["run", "encoder or run file", "evaluation", "fingerprint", "made"], rows, texts=5)


def sections_of(report: EvaluationReport, benchmark: str) -> list[str]:
    """The benchmark's own score first, then those within it."""
    return list(
        dict.fromkeys(
            section
            for run in report.runs
            if benchmark in run.benchmarks
            for section in run.benchmarks[benchmark].sections()
        )
    )


def points(value: float) -> str:
    """A difference of fractions in points, with its sign; 0.0 has none."""
    shown = f"{100 * value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", MINUS)


def _said(one: Finding) -> str:
    return _WORDS[one.verdict] + (f"{DAGGER} ({one.incomplete})" if one.incomplete else "")


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]


def _all_series(report: EvaluationReport) -> list[Series]:
    places = [(name, section) for name in report.benchmarks() for section in sections_of(report, name)]
    return [one for place in places for one in series_of(report, *place)]


def _row(benchmark: str, section: str, average: str, metric: str, series: Sequence[Series]) -> list[Cell]:
    """An average of all series; of the complete ones the best is marked."""
    values, whole = [], []
    for one in series:
        score = one.score(benchmark, section)
        numbers = (score.macro if average == "macro" else score.averages.get(average, {})) if score else {}
        values.append(numbers.get(metric))
        whole.append(not lacks(benchmark, section, average, one, series))
    cells = _best(values, whole)
    return [
        cell if complete or value is None else cell._replace(text=f"{cell.text}{DAGGER}")
        for cell, complete, value in zip(cells, whole, values, strict=True)
    ]


def _best(values: Sequence[float | None], judged: Sequence[bool], shaded: bool = False) -> list[Cell]:
    """Per cent; the highest of those judged is marked, all of the equals as they are shown."""
    shown = [percent(value) for value in values]
    known = {t: v for v, t, among in zip(values, shown, judged, strict=True) if among and v is not None}
    several = sum(1 for v, among in zip(values, judged, strict=True) if among and v is not None) > 1
    top = max(known, key=lambda text: known[text]) if several and len(known) > 1 else None
    return [
        Cell(text, best=among and text == top, heat=min(max(value, 0.0), 1.0) if shaded and value is not None else None)
        for value, text, among in zip(values, shown, judged, strict=True)
    ]


def _of(average: str) -> str:
    return "" if average == "macro" else f", the {average}"


def ours(series: Series) -> str:
    """A series by the name of its run, also where its label needs none."""
    return series.label if series.label.startswith(series.run.name) else f"{series.run.name} {series.label}"


def _marked(one: Compared) -> str:
    return percent(one.average) + (DAGGER if one.lacks and one.average is not None else "")


def _points(value: float | None) -> Cell:
    if value is None:
        return Cell(MISSING)
    text = points(value)
    return Cell(text, tone="neutral" if text == "0.0" else "good" if value > 0 else "bad")


def _common(one: Difference) -> Cell:
    cell = _points(one.common)
    return cell._replace(text=f"{cell.text} ({one.over})") if one.common is not None else cell
