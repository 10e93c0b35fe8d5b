"""Search an index artifact: the k nearest rows of each query, the same at any number of shards.

    >>> index = Index.open("runs/quickstart/index")                  # doctest: +SKIP
    >>> index.search(["some text"], k=10, lang="en")                 # doctest: +SKIP
    >>> index.search(queries_QD, k=10, only="de")                    # doctest: +SKIP

The shards are open in this process, or in Ray actors on several machines (`actors=`): the hits are the same to the bit.
Shards propose (`ccp_ray.shard`), one function puts in order (`ccp_ray.ranking.best`). Exact search of 100,000 rows of
384 dimensions in four shards answers as many queries a second as one `IndexFlatIP` over all (256 at once, two cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.calibration import unit
from ccp_ray.errors import UsageError
from ccp_ray.query_encoder import Languages, QueryEncoder
from ccp_ray.ranking import places
from ccp_ray.shards import Shards

_COLUMNS = ("query", "rank", "id", "score", "lang", "text")


class Hit(NamedTuple):
    """One result; score is the cosine, or the inner product where the index' metric says so."""

    id: str
    score: float
    lang: str
    text: str


class _Searched(Protocol):
    """Shards, wherever they are open."""

    @property
    def languages(self) -> set[str]: ...

    def best(self, queries_QD: NDArray[np.float32], k: int, only: str | None = None) -> pa.Table: ...

    def close(self) -> None: ...


class Index:
    """An index artifact, open for search. Use it in a `with` statement, or `close` it, to end actors at once."""

    def __init__(self, artifact: Artifact, shards: _Searched) -> None:
        summary = artifact.summary
        self.artifact = artifact
        self.dimensions = int(summary["dimensions"])
        self.rows = int(summary["rows"])
        self.metric = str(summary.get("metric", "cosine"))
        self.exact = bool(summary.get("exact", True))
        self.queries = QueryEncoder(artifact)
        self._shards = shards

    @classmethod
    def open(cls, uri: str, actors: int | None = None) -> Index:
        """The index at a URI, its shards in this process; with `actors`, in that many Ray actors (0: one a CPU).

        Actors need a Ray session (`ccp_ray.session.ray_session`). Raises UsageError where there is no finished index,
        StoreError where a shard was altered.
        """
        artifact = open_artifact(uri, "index")
        if actors is None:
            return cls(artifact, Shards(artifact))
        from ccp_ray.search_actors import ShardActors

        return cls(artifact, ShardActors(artifact, actors))

    def search(
        self,
        queries: NDArray[np.float32] | Sequence[str],
        k: int = 10,
        only: str | None = None,
        *,
        lang: Languages = None,
        prompt: str | None = None,
    ) -> list[list[Hit]]:
        """The k nearest rows of each query, best first, ties by id; only rows of language `only` if given.

        queries: vectors [Q, D] as the index' rows are, or texts. A calibrated index needs the language of texts: one
        for all, or a sequence with one each. `prompt` is put before each text (None: that of the rows).
        Raises UsageError for k below 1, another width than the index', NaN or infinity, and as `QueryEncoder.encode`.
        """
        if isinstance(queries, np.ndarray):
            if lang is not None or prompt is not None:
                raise UsageError(
                    "lang and prompt are for texts; vectors are taken as they are (Index.queries.calibrate)"
                )
            return _hits(self.search_table(queries, k, only), len(queries))
        if isinstance(queries, str):
            raise UsageError("queries: one string; give a list of texts")
        return _hits(self.search_table(self.queries.encode(queries, lang, prompt), k, only), len(queries))

    def search_table(self, queries_QD: NDArray[np.float32], k: int = 10, only: str | None = None) -> pa.Table:
        """The same as one table: query (number, from 0), rank (from 1), id, score, lang, text."""
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.dimensions:
            raise UsageError(f"queries have shape {queries_QD.shape}, expected [queries, {self.dimensions}]")
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        bad = np.flatnonzero(~np.isfinite(queries_QD).all(axis=1))
        if len(bad):
            raise UsageError(f"query {bad[0]}: NaN or infinity in its vector")
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        ready_QD = unit(queries_QD) if self.metric == "cosine" else queries_QD
        found = self._shards.best(ready_QD, k, only)
        rank = places(found.column("query").to_numpy()) + 1
        return found.append_column("rank", pa.array(rank)).select(_COLUMNS)

    @property
    def languages(self) -> list[str]:
        """Languages of the rows, sorted."""
        return sorted(self._shards.languages)

    def close(self) -> None:
        """Let go of the shards; ends the actors that hold them."""
        self._shards.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _hits(table: pa.Table, queries: int) -> list[list[Hit]]:
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in Hit._fields]
    hits = list(map(Hit._make, zip(*columns, strict=True)))
    bounds = np.searchsorted(table.column("query").to_numpy(), np.arange(queries + 1)).tolist()
    return [hits[start:stop] for start, stop in pairwise(bounds)]
