"""Published values of other systems, read strictly from `published.yaml`.

A table holds for one benchmark, section, metric and split, and says which languages its average is over. Values stand
there in per cent as their source prints them; everything that is given out is a fraction of 1, as results are.
Sources round to a tenth, so a difference to them is known to 0.05 points.

Reading fails where an average is not that of its languages' values: a slip of the pen would else become a difference.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel, load_config
from ccp_ray.errors import UsageError

PUBLISHED = Path(__file__).parent / "published.yaml"
_ROUNDED = 0.05 + 1e-9  # per cent: values and average are rounded to a tenth


class PublishedRow(StrictModel):
    """One system. Values in per cent."""

    system: str = Field(min_length=1)
    setting: str = Field(min_length=1, description="what it was trained on: only like settings compare")
    source: str = Field(min_length=1)
    average: float = Field(ge=0, le=100)
    values: dict[str, float] = Field(default_factory=dict, description="by language")

    def fraction(self, lang: str) -> float | None:
        """The value of a language as a fraction; None where the source gives none."""
        return self.values[lang] / 100 if lang in self.values else None

    def mean_over(self, languages: Sequence[str]) -> float | None:
        """Mean over some of the languages as a fraction; None where the source lacks one of them."""
        known = [value for lang in languages if (value := self.fraction(lang)) is not None]
        return sum(known) / len(known) if known and len(known) == len(languages) else None


class PublishedTable(StrictModel):
    """Systems on one benchmark by one metric."""

    benchmark: str
    metric: str
    section: str = Field(default="", description="a score within the benchmark's, such as margin")
    split: str | None = Field(default=None, description="None: the benchmark has no splits")
    languages: list[str] = Field(default_factory=list, description="that the average is over")
    average_of: str | None = Field(default=None, description="name of an average of the benchmark's own")
    caveat: str = ""
    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> PublishedTable:
        where = f"{self.benchmark} {self.metric}"
        if bool(self.languages) == (self.average_of is not None):
            raise ValueError(f"{where}: give either languages or average_of, which the average is over")
        names = [row.system for row in self.rows]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{where}: system {double!r} stands twice")
        for row in self.rows:
            self._check(where, row)
        return self

    def _check(self, where: str, row: PublishedRow) -> None:
        if not row.values:
            return
        if set(row.values) != set(self.languages):
            differing = ", ".join(sorted(set(row.values) ^ set(self.languages)))
            raise ValueError(f"{where}, {row.system}: values and the table's languages differ in {differing}")
        mean = sum(row.values.values()) / len(row.values)
        if abs(mean - row.average) > _ROUNDED:
            raise ValueError(f"{where}, {row.system}: average {row.average} is not {mean:.2f}, that of its values")

    def row(self, names: Sequence[str]) -> PublishedRow | None:
        """The row of the first of these systems that the table has."""
        rows: Mapping[str, PublishedRow] = {row.system: row for row in self.rows}
        return next((rows[name] for name in names if name in rows), None)


class Published(StrictModel):
    """All tables."""

    tables: list[PublishedTable]

    def systems(self) -> list[str]:
        """All systems, once each."""
        return list(dict.fromkeys(row.system for table in self.tables for row in table.rows))

    def require(self, names: Sequence[str]) -> None:
        """Raises UsageError for a system that no table has, with the nearest name."""
        for name in names:
            if name not in self.systems():
                near = difflib.get_close_matches(name, self.systems(), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.systems())}"
                raise UsageError(f"no published row {name!r}; {hint}")


def load_published(uri: str = str(PUBLISHED)) -> Published:
    """The published tables. Raises UsageError naming what is wrong in the file."""
    return load_config(Published, [uri])
