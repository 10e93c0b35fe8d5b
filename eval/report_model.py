"""What a report says: plain typed data, so that it is drawn without Ray, torch or the artifacts behind it.

Every part may be absent; `report` then leaves out its section. Accuracies and shares are fractions of 1, times
seconds, sizes bytes. The same data is the report's JSON: `ReportData.model_validate_json` reads it back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel

Point = Annotated[tuple[float, float], Field(strict=False)]  # JSON has no tuples: [x, y] is accepted
Labelled = Annotated[tuple[str, str], Field(strict=False)]


class Score(StrictModel):
    """Top-1 accuracy by direction."""

    mean: float
    forward: float | None = None
    backward: float | None = None


class RetrievalRow(StrictModel):
    """One language pair; a variant that was not measured is missing."""

    pair: str
    values: dict[str, Score]


class RetrievalTable(StrictModel):
    """One benchmark: pairs down, variants across (untrained first)."""

    name: str
    columns: list[str] = Field(min_length=1)
    rows: list[RetrievalRow]
    macro: dict[str, Score] = Field(default_factory=dict, description="mean over pairs, by variant")
    note: str = ""

    @model_validator(mode="after")
    def _known_variants(self) -> RetrievalTable:
        found = {name for row in self.rows for name in row.values} | set(self.macro)
        unknown = sorted(found - set(self.columns))
        if unknown:
            raise ValueError(f"{self.name}: variant {unknown[0]!r} is not among the columns {self.columns}")
        return self


class ContextRow(StrictModel):
    """How often a sentence's nearest neighbour of its language lies in its window."""

    lang: str
    before: float | None = None
    after: float | None = None
    calibrated: float | None = None
    chance: float | None = None
    n: int | None = Field(default=None, description="sentences searched")


class Context(StrictModel):
    """Context retrieval on held-out documents."""

    rows: list[ContextRow] = Field(default_factory=list)
    note: str = ""


class Series(StrictModel):
    """One line of a curve."""

    name: str
    points: list[Point]
    reference: bool = Field(default=False, description="a level to compare with: drawn thin and dashed")


class Curve(StrictModel):
    """One small chart."""

    title: str
    x_label: str = "step"
    y_label: str = ""
    series: list[Series]
    log_y: bool = False
    note: str = ""
    section: Literal["training", "health"] = "training"
    percent: bool = Field(default=False, description="y is a fraction, shown in %")
    from_zero: bool = Field(default=False, description="the y axis includes 0")
    smooth: bool = Field(default=False, description="draw a smoothed line over the faint raw one")
    by_language: bool = Field(default=False, description="series are languages: same colours as elsewhere")

    @model_validator(mode="after")
    def _positive_on_a_log_axis(self) -> Curve:
        if self.log_y and any(y <= 0 for series in self.series for _, y in series.points):
            raise ValueError(f"{self.title}: a logarithmic axis takes values above 0 only")
        return self


class ProjectedPoint(StrictModel):
    """One sentence in the plane."""

    lang: str
    x: float
    y: float


class Projection(StrictModel):
    """One panel: sentences in two dimensions."""

    title: str
    points: list[ProjectedPoint] = Field(min_length=1)
    links: list[list[int]] = Field(
        default_factory=list, description="each: indices of points that mean the same, drawn joined"
    )
    note: str = ""

    @model_validator(mode="after")
    def _links_hit_points(self) -> Projection:
        for link in self.links:
            if any(not 0 <= index < len(self.points) for index in link):
                raise ValueError(f"{self.title}: link {link} names a point beyond the {len(self.points)} there are")
        return self


class StageRow(StrictModel):
    """What a stage took; peak memory in bytes."""

    stage: str
    seconds: float
    rows: int | None = None
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    padding_efficiency: float | None = None
    peak_memory_bytes: int | None = None


class ArtifactRow(StrictModel):
    """Where a stage's result lies and what it is."""

    stage: str
    kind: str
    uri: str
    fingerprint: str
    files: int
    bytes: int


class ReportData(StrictModel):
    """All of a report."""

    title: str
    created: str = ""
    result: str = Field(default="", description="the result in one sentence; made from the first table if empty")
    headline: list[Labelled] = Field(default_factory=list)
    retrieval: list[RetrievalTable] = Field(default_factory=list)
    context: Context | None = None
    curves: list[Curve] = Field(default_factory=list)
    verdict: str = ""
    healthy: bool | None = Field(default=None, description="the verdict's colour: green, red, or neutral if None")
    projections: list[Projection] = Field(default_factory=list)
    stages: list[StageRow] = Field(default_factory=list)
    artifacts: list[ArtifactRow] = Field(default_factory=list)
    config_yaml: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
