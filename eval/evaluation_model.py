"""What a report of evaluations says: plain typed data, read from evaluation artifacts and from nothing else.

    Run          an encoder under a name: one or several evaluations, no benchmark twice
      Scored     a benchmark: its split, what its averages lack, its variants
        Score    a variant's section: numbers of the whole (macro), of parts (pairs or languages), of named averages

A score that stands within another one (Tatoeba's `margin`, `joined`) becomes a section of its own, named by its path;
"" is the benchmark's own. Scores of a calibration that was fitted on the benchmark's own sentences have a star, be it
beside a given one or the only one: "rotate*". The same data is the report's JSON:
`EvaluationReport.model_validate_json` reads it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from ccp_ray.config import StrictModel
from eval.expected import Finding
from eval.metric_names import variant_label
from eval.published import PublishedTable
from eval.report_model import Curve

Numbers = dict[str, float]
"""Value by metric; fractions of 1."""

STAR = "*"
"""After the name of a variant whose calibration was fitted on the benchmark's own sentences."""


class Score(StrictModel):
    """Numbers of one section in one variant."""

    macro: Numbers
    parts: dict[str, Numbers] = Field(default_factory=dict, description="by pair or language")
    kind: Literal["pair", "language"] = "language"
    averages: dict[str, Numbers] = Field(default_factory=dict, description="over a named set of languages")
    lines: dict[str, int] = Field(default_factory=dict, description="of each pair: what one sentence is sought among")
    top: dict[str, Numbers] = Field(
        default_factory=dict, description="by language of the question: shares of languages among the best candidates"
    )

    def metrics(self) -> list[str]:
        return list(self.macro)


class Scored(StrictModel):
    """A benchmark in one run."""

    split: str | None = None
    calibration: str
    incomplete: dict[str, str] = Field(
        default_factory=dict, description='"macro" or an average: what it lacks, in words; complete ones are not here'
    )
    unofficial: dict[str, str] = Field(
        default_factory=dict, description="languages or pairs whose data are not the official ones, in words"
    )
    variants: dict[str, dict[str, Score]] = Field(min_length=1, description="variant: section: score")

    def score(self, variant: str, section: str) -> Score | None:
        return self.variants.get(variant, {}).get(section)

    def sections(self) -> list[str]:
        return list(dict.fromkeys(section for scores in self.variants.values() for section in scores))


class Source(StrictModel):
    """An evaluation artifact that a run's scores come from."""

    uri: str
    fingerprint: str
    scored: str = Field(description="URI of the encoder, or of the run files that were scored")
    created: str = ""


class Run(StrictModel):
    """An encoder's scores."""

    name: str
    sources: list[Source] = Field(min_length=1)
    benchmarks: dict[str, Scored] = Field(min_length=1)
    missing: list[str] = Field(default_factory=list, description="benchmarks that were asked for and had no data")


class EvaluationReport(StrictModel):
    """All of a report."""

    title: str
    runs: list[Run] = Field(min_length=1)
    published: list[PublishedTable] = Field(default_factory=list)
    against: list[str] = Field(default_factory=list, description="published rows to compare with, the first found")
    findings: list[Finding] = Field(default_factory=list, description="of the check; empty without one")
    curves: list[Curve] = Field(default_factory=list)

    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.benchmarks))


class Series(NamedTuple):
    """A run in one variant: a column of tables, a bar of charts."""

    run: Run
    variant: str
    label: str

    @property
    def starred(self) -> bool:
        """Whether its calibration was fitted on the benchmark's own sentences."""
        return self.variant.endswith(STAR)

    def scored(self, benchmark: str) -> Scored | None:
        return self.run.benchmarks.get(benchmark)

    def score(self, benchmark: str, section: str) -> Score | None:
        scored = self.scored(benchmark)
        return scored.score(self.variant, section) if scored else None


def series_of(report: EvaluationReport, benchmark: str, section: str = "") -> list[Series]:
    """Each run in each of its variants that has the section.

    Beside the steps of a given calibration only the last one with a star, which holds all; without them, all that have
    one.
    """
    found = []
    for run in report.runs:
        scored = run.benchmarks.get(benchmark)
        have = [name for name in scored.variants if section in scored.variants[name]] if scored else []
        plain = [name for name in have if not name.endswith(STAR)]
        own = [name for name in have if name.endswith(STAR)]
        shown = plain + (own[-1:] if len(plain) > 1 else own)
        found += [Series(run, variant, _label(run.name, variant, len(report.runs) > 1)) for variant in shown]
    return found


def ends(series: Sequence[Series]) -> list[Series]:
    """Each run in its first variant and in its last, in which all steps are."""
    first = {one.run.name: one for one in reversed(series)}
    return [one for one in series if one in (*first.values(), *last_variants(series))]


def last_variants(series: Sequence[Series]) -> list[Series]:
    """Each run in its last variant, with all steps of its calibration: of a given one where it has that."""
    by_run: dict[str, list[Series]] = {}
    for one in series:
        by_run.setdefault(one.run.name, []).append(one)
    given = [[one for one in own if not one.starred] for own in by_run.values()]
    return [plain[-1] if len(plain) > 1 else own[-1] for plain, own in zip(given, by_run.values(), strict=True)]


def _label(name: str, variant: str, several: bool) -> str:
    return f"{name} {variant_label(variant)}" if several else variant_label(variant)
