"""Exact top-k of queries over an embeddings artifact, piece by piece, for several variants of a calibration at once.

    piece ──► read, hashed ──► vectors of a variant ──► candidates (`ccp_ray.shard`) ──► the k best so far (`Best`)
                  └── once ──► ... of the next variant

Scores are cosines: rows and queries have unit length after every variant. With `similarity: dot` the variant without
steps takes both as they are, for encoders that were fine-tuned so; calibrated vectors have unit length always.

A row's score depends on nothing but the row and the query: FAISS proposes in float32 near the speed of the matrix
product, what could be among the k best is scored again in float64, ties go by id. So pieces may be cut anywhere and
searched in any order, in one process or in many tasks. A rotation would spoil that (the last bits of a product of
matrices follow from its shape), so rows are never rotated: as (x R) . q = x . (q R^T), the queries of a language's
rows are turned back instead, which also costs less wherever there are fewer queries than rows.

Memory: the vectors of one piece as stored and once in float32, of one variant (made by blocks, and dropped before the
next variant's are), which is three times the piece's float16; its rows, and queries x k hits of each variant; not the
number of pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccp_ray.calibration import Calibration, Step, unit
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ranking import RANKED, best, places
from ccp_ray.shard import Shard

FloatArray = NDArray[np.float32]
Similarity = Literal["cosine", "dot"]
_WAITING = 1 << 16  # hits that wait to be merged, at least
_BLOCK = 2048  # rows of a variant made at once: each costs three copies of itself

UNNAMED = "und"
"""The language that rows have whose file names none (`ccp_ray.records`)."""


class Space(NamedTuple):
    """How vectors are compared. unnamed: the language of rows that name none, for the calibration."""

    calibration: Calibration | None = None
    similarity: Similarity = "cosine"
    unnamed: str = UNNAMED

    def languages(self, table: pa.Table) -> list[str]:
        """Of a table's rows."""
        return [self.unnamed if lang == UNNAMED else str(lang) for lang in table.column("lang").to_pylist()]


_COSINE = Space()


class Asked(NamedTuple):
    """One variant: the calibration's steps, and the queries [Q, D] as they are after all of them."""

    steps: tuple[Step, ...]
    queries_QD: FloatArray


def placed(vectors_ND: NDArray[Any], languages: Sequence[str], steps: tuple[Step, ...], space: Space) -> FloatArray:
    """Vectors of a variant, each row in its own language. Raises DataError for a language that is not calibrated."""
    if not steps and space.similarity == "dot":
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)
    out_ND = np.empty(np.shape(vectors_ND), dtype=np.float32)
    if not steps:
        for start in range(0, len(vectors_ND), _BLOCK):
            some = slice(start, start + _BLOCK)
            out_ND[some] = unit(np.asarray(vectors_ND[some], dtype=np.float32))
        return out_ND
    if space.calibration is None:
        raise UsageError(f"{steps[-1]}: there is no calibration")
    languages_N = np.array(languages, dtype=object)
    for lang in sorted(set(languages)):
        row_n = np.flatnonzero(languages_N == lang)
        for some_n in np.array_split(row_n, -(-len(row_n) // _BLOCK)):
            out_ND[some_n] = space.calibration.apply(vectors_ND[some_n], lang, steps)
    return out_ND


def exact_search(
    embeddings: Embeddings,
    asked: Mapping[str, Asked],
    k: int,
    space: Space = _COSINE,
) -> dict[str, pa.Table]:
    """The k best rows of each query, by variant: the columns of `ccp_ray.ranking.RANKED`, by query and best first.

    `shard` is the number of the piece, `row` the row in it. Raises DataError for a piece that is not as recorded, a
    language that the calibration lacks, and queries of another width.
    """
    found = {name: Best(len(one.queries_QD), k) for name, one in asked.items()}
    for number in range(len(embeddings.pieces)):
        for name, part in search_piece(embeddings, number, asked, k, space):
            found[name].add(part)
    return {name: kept.table() for name, kept in found.items()}


def search_piece(
    embeddings: Embeddings, number: int, asked: Mapping[str, Asked], k: int, space: Space = _COSINE
) -> Iterator[tuple[str, pa.Table]]:
    """(variant, its k best rows of one piece in no order); the piece is read once."""
    _check(embeddings, asked, k)
    stored_ND, table = embeddings.stored(embeddings.pieces[number])
    row_languages = space.languages(table)
    named = table.set_column(1, "lang", pa.array(row_languages, pa.string()))
    for steps, names in _by_rows(asked).items():
        is_unit = bool(steps) or space.similarity == "cosine"
        shard = Shard.of(number, placed(stored_ND, row_languages, steps, space), named, unit=is_unit)
        for name in names:
            yield name, _candidates(shard, asked[name], k, space.calibration)
        del shard  # or it would live on while the next variant's rows are made


def _by_rows(asked: Mapping[str, Asked]) -> dict[tuple[Step, ...], list[str]]:
    """Variants by what is done to rows: all steps but the rotation."""
    groups: dict[tuple[Step, ...], list[str]] = {}
    for name, one in asked.items():
        groups.setdefault(tuple(step for step in one.steps if step != "rotate"), []).append(name)
    return groups


def _candidates(shard: Shard, asked: Asked, k: int, calibration: Calibration | None) -> pa.Table:
    if "rotate" not in asked.steps or calibration is None:
        return shard.ranked(shard.candidates(asked.queries_QD, k))
    parts = []
    for lang in sorted(shard.languages):
        back_QD = np.ascontiguousarray(asked.queries_QD @ calibration.parameters(lang)[2].T)
        parts.append(shard.ranked(shard.candidates(back_QD, k, lang)))
    return pa.concat_tables(parts)


def _check(embeddings: Embeddings, asked: Mapping[str, Asked], k: int) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}")
    for one in asked.values():
        width = one.queries_QD.shape[1]
        if width != embeddings.dimensions:
            raise DataError(
                f"queries of {width} dimensions do not fit {embeddings.artifact.uri} of {embeddings.dimensions}; "
                "questions and passages need encoders of one width"
            )


class Best:
    """The k best hits of each query, of parts that come one by one, in any order.

    What lies below a query's k-th best so far is dropped at once, the rest is put in order when it is as much as what
    is kept: of many pieces all but the first few add little, and the order costs little more than that of one.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._kept = RANKED.empty_table()
        self._waiting: list[pa.Table] = []
        self._floor_Q = np.full(queries, -np.inf)

    def add(self, part: pa.Table) -> None:
        """Hits in no order: the columns of `RANKED`."""
        score_n, query_n = part.column("score").to_numpy(), part.column("query").to_numpy()
        self._waiting.append(part.filter(pa.array(score_n >= self._floor_Q[query_n])))
        if sum(map(len, self._waiting)) >= max(_WAITING, len(self._kept)):
            self._merge()

    def table(self) -> pa.Table:
        """The best of all parts, by query and best first."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        self._kept = best([self._kept, *self._waiting], self._k).combine_chunks()
        self._waiting = []
        query_n, score_n = self._kept.column("query").to_numpy(), self._kept.column("score").to_numpy()
        last_n = places(query_n) == self._k - 1
        self._floor_Q[query_n[last_n]] = score_n[last_n]
