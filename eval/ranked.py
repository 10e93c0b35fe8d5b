"""What a benchmark with a collection is: passages to rank for questions, and a score of the ranked lists alone.

    load        the benchmark knows where its passages lie and what is asked
    embed       each collection once, by the `embed` job; questions by the same encoder, or one of their own
    rank        exact search, streamed over the pieces of a collection, for each variant
    score       a pure function of the run, so a run file of another system scores the same way

`eval.protocol` has the other kind: texts that fit into memory and a score of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Collection(NamedTuple):
    """Passages that are embedded once: a file or folder that `embed` reads. Ids are unique within it."""

    name: str
    uri: str


class Question(NamedTuple):
    """What is asked, of which collection. Ids are unique within a language."""

    id: str
    lang: str
    text: str
    collection: str


class Hit(NamedTuple):
    """A ranked passage; `text` only where the benchmark asks for it."""

    id: str
    score: float
    text: str = ""


Run = Mapping[str, Mapping[str, Sequence[Hit]]]
"""Language of the question -> id of the question -> hits, best first."""


class RankedBenchmark(Protocol):
    """A loaded benchmark."""

    name: str
    depth: int
    """Hits of a question that the score needs."""
    needs_text: bool
    """Whether the score reads the passages' texts."""

    def collections(self) -> list[Collection]:
        """What to embed, in a fixed order."""

    def questions(self) -> list[Question]:
        """What to ask, in a fixed order."""

    def score(self, run: Run) -> dict[str, Any]:
        """Plain JSON: {"macro": {METRIC: value}, "languages": {LANG: {METRIC: value}}}, fractions of 1.

        A question without hits scores 0; hits of questions that were not asked are ignored.
        """

    def describe(self) -> dict[str, Any]:
        """What was read, for the result: counts and choices, plain JSON."""

    def key(self) -> str:
        """A digest of the questions and of what is expected."""


@runtime_checkable
class Parted(Protocol):
    """A benchmark of several collections, of which some may not be at hand."""

    def at_hand(self) -> RankedBenchmark:
        """The part whose collections are there, which names the others as missing; for what ranks passages itself.

        Raises UsageError where none is there.
        """


@runtime_checkable
class Judged(Protocol):
    """A benchmark whose judgements name documents, which a collection may lack."""

    def check_documents(self, lang: str, ids: Iterable[str]) -> int:
        """How many judged documents the collection of this name lacks; `ids` are all that it has.

        Raises DataError where it lacks most.
        """
