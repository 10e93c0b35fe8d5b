"""What a bench says: figures beside what was asked for, as JSON and as a small table; and rounds that are interleaved.

Contenders take turns: each round runs all of them once, and ratios are taken within a round before their median is. A
machine that is busy for a while then slows both sides of a ratio, where two runs one after the other would blame one.
Not quite alike: Ray runs its workers at niceness 15, so beside other work they get less of a core than plain processes
do, and our side looks slower than it is. Run the bench alone; the load is kept with the figures.
"""

from __future__ import annotations

import datetime
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.errors import UsageError
from ccp_ray.progress import say


class BenchOptions(StrictModel):
    """Encoder, text and sizes of one bench. Empty lists stand for what is usual.

    texts: sentences, None for as many as each section of embed wants; pieces: of the restart's plan; rows and
    dimensions: vectors of index and search; objects: small ones of store; factories: FAISS strings to build; data: a
    folder with Tatoeba.
    """

    encoder: str
    documents: list[str] = Field(default_factory=list)
    rounds: int = 5
    texts: int | None = None
    pieces: int = 10_000
    rows: int = 100_000
    dimensions: int = 384
    objects: int = 1000
    data: str | None = None
    factories: list[str] = Field(default_factory=list)
    sections: list[str] = Field(default_factory=list)

    def chosen(self, known: Sequence[str]) -> list[str]:
        """The sections that are asked for, of a part that has these. Raises UsageError for another."""
        if unknown := sorted(set(self.sections) - set(known)):
            raise UsageError(f"--section {unknown[0]}: unknown; known are {', '.join(known)}")
        return self.sections


class Figure(NamedTuple):
    """A number, and what was asked of it, if anything was."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def asked(self) -> str:
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """None where nothing was asked."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None


def report(figures: Sequence[Figure], **details: Any) -> dict[str, Any]:
    """The JSON of a part: date, figures, and what they were worked out from."""
    shown = [
        {"what": figure.what, "value": figure.value, "unit": figure.unit, "asked": figure.asked, "met": figure.met}
        for figure in figures
    ]
    load = os.getloadavg()[1]  # of five minutes: how far to trust times
    return {"date": today(), "load": load, "figures": shown, **details}


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def figure_table(title: str, part: Mapping[str, Any]) -> str:
    """A part's figures as aligned text."""
    rows = [
        (each["what"], f"{_number(each['value'])} {each['unit']}".strip(), each["asked"], _verdict(each["met"]))
        for each in part["figures"]
    ]
    wide = max(len(title), *(len(row[0]) for row in rows))
    value = max(12, *(len(row[1]) for row in rows))
    lines = [f"{title:<{wide}}  {'measured':>{value}}  asked for"]
    lines += [f"{what:<{wide}}  {shown:>{value}}  {asked:<16}{met}".rstrip() for what, shown, asked, met in rows]
    return "\n".join([*lines, *(f"  {note}" for note in part.get("notes", ()))])


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    # Of a cosine, the distance from 1 is what matters.
    return f"{value:.6f}" if 0.99 <= value < 1 else f"{value:.3g}"


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "NOT MET", None: ""}[met]


def interleaved(contenders: Mapping[str, Callable[[], float]], rounds: int, label: str) -> list[dict[str, float]]:
    """Seconds of every contender in every round, by name."""
    measured = []
    for number in range(rounds):
        say(f"bench: {label}, round {number + 1} of {rounds}")
        measured.append({name: run() for name, run in contenders.items()})
    return measured


def median(measured: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in measured)


def median_ratio(measured: Sequence[Mapping[str, float]], over: str, under: str) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(row[over] / row[under] for row in measured)
