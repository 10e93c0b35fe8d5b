"""One shard of an index: hashed when it is opened, then mapped, and asked for candidates. Or one of vectors in memory.

Exact shards (flat, fp32 or fp16). FAISS proposes rows by float32 scores, whose last bits depend on how many vectors and
queries are multiplied at once, so that ties would fall differently with the number of shards. Its proposals are scored
again in float64: products of float32 are exact there, and their sum along one row of D numbers is always taken in the
same order. A float32 score is off by at most D u |x| |q| (u = 2^-24; Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1), so rows further than twice that below the k-th are out, and a query whose last
proposal is within it is asked again for more. For 384 dimensions this is 5e-5 of a cosine: rarely more than k rows are
scored again.

Other shards (IVF, HNSW, PQ): FAISS' own scores of FAISS' own proposals; they depend on the shards and nothing else.

Memory: pages of vectors and rows that are in use, and while it is opened all rows once. Rows are unpacked from parquet
into a nameless file in the cache folder, because parquet cannot be read row by row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact
from ccp_ray.errors import DataError, UsageError
from ccp_ray.flat import Flat
from ccp_ray.index_anatomy import set_parameters
from ccp_ray.index_file import read_index
from ccp_ray.ledger import verified_copy
from ccp_ray.model_source import cache_folder
from ccp_ray.ranking import RANKED, Numbers, best, leading

COLUMNS = ("id", "lang", "text")
_SPARE = 6  # proposals beyond k, so that few queries are asked twice
_FETCHED = 1 << 22  # proposals at once: 50 MB
_SCORED = 1 << 20  # numbers scored at once: 8 MB


class Candidates(NamedTuple):
    """Scored rows in no order: row `row_n[i]` has `score_n[i]` for query `query_n[i]`."""

    query_n: Numbers
    score_n: NDArray[np.float64]
    row_n: Numbers

    def where(self, kept_n: NDArray[Any]) -> Candidates:
        return Candidates(self.query_n[kept_n], self.score_n[kept_n], self.row_n[kept_n])


_ROWS = pa.schema([(name, pa.large_string()) for name in COLUMNS])
_NONE = Candidates(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64))


class _Selection(NamedTuple):
    """Rows that may be found: how many, and FAISS' selector of them (None: all)."""

    rows: int
    selector: Any


class Shard:
    """Rows that can be asked: shard `number` of an index artifact, or one of vectors in memory.

    exact: scored again in float64. unit: every row has length one.
    """

    def __init__(self, number: int, index: Any, table: pa.Table, *, exact: bool = True, unit: bool = True) -> None:
        self.number, self.index, self.exact, self.unit = number, index, exact, unit
        self._table = table
        self._selections: dict[str | None, _Selection] = {None: _Selection(index.ntotal, None)}

    @classmethod
    def open(cls, artifact: Artifact, number: int) -> Shard:
        """One of an index artifact's, mapped. Raises DamagedError where it was altered."""
        faiss = _faiss()
        records = {record.path: record for record in artifact.files}
        keys = [artifact.summary["shards"][number][kind] for kind in ("vectors", "table")]
        vectors, rows = (verified_copy(artifact.store, records[key], cache_folder() / "shards") for key in keys)
        where = artifact.store.uri(keys[0])
        index = read_index(vectors, where, faiss.IO_FLAG_MMAP_IFC)
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise DataError(f"{where}: not an index of inner products; build the index again")
        try:
            set_parameters(index, artifact.summary.get("search_parameters", ""))
        except UsageError as error:
            raise DataError(f"{where}: {error}; build the index again") from None
        summary = artifact.summary
        exact, unit = bool(summary.get("exact", True)), summary.get("metric", "cosine") == "cosine"
        return cls(number, index, _mapped(rows), exact=exact, unit=unit)

    @classmethod
    def of(cls, number: int, vectors_ND: NDArray[np.float32], table: pa.Table, *, unit: bool) -> Shard:
        """An exact one of vectors [N, D], which are not copied, and their rows (id, lang, text)."""
        return cls(number, Flat(vectors_ND), table.select(list(COLUMNS)).cast(_ROWS).combine_chunks(), unit=unit)

    @cached_property
    def languages(self) -> set[str]:
        return set(pc.unique(self._table.column("lang")).to_pylist())

    def rows(self, row_n: Numbers, columns: tuple[str, ...] = COLUMNS) -> pa.Table:
        """The rows of these numbers, in this order."""
        return self._table.select(columns).take(pa.array(row_n))

    def ranked(self, found: Candidates) -> pa.Table:
        """Candidates with their ids: the columns of `RANKED`."""
        ids, number_n = self.rows(found.row_n, ("id",)).column("id"), np.full(len(found.row_n), self.number)
        return pa.table([found.query_n, found.score_n, ids, number_n, found.row_n], schema=RANKED)

    def candidates(self, queries_QD: NDArray[np.float32], k: int, only: str | None = None) -> Candidates:
        """The k best rows of each query, ties by id; only rows of a language if given.

        Of a shard that is not exact: the k best that FAISS finds.
        """
        selection = self._selection(only)
        if not selection.rows or not len(queries_QD):
            return _NONE
        if not self.exact:
            return self._proposed(queries_QD, min(k, selection.rows), selection)
        parts = [self._first(part, k) for part in self._rescored(queries_QD, k, selection)]
        return Candidates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _first(self, found: Candidates, k: int) -> Candidates:
        """The k best of each query. Ids are looked up only where more than k tie."""
        found = found.where(leading(found.query_n, found.score_n, k))
        if not len(found.query_n) or np.bincount(found.query_n).max() <= k:
            return found
        table = best([self.ranked(found)], k)
        return Candidates(*(table.column(name).to_numpy() for name in ("query", "score", "row")))

    def _proposed(self, queries_QD: NDArray[np.float32], k: int, selection: _Selection) -> Candidates:
        scores_QK, rows_QK = self._search(queries_QD, k, selection)
        query_n, place_n = np.nonzero(rows_QK >= 0)  # -1: FAISS found fewer
        return Candidates(query_n, scores_QK[query_n, place_n].astype(np.float64), rows_QK[query_n, place_n])

    def _rescored(self, queries_QD: NDArray[np.float32], k: int, selection: _Selection) -> Iterator[Candidates]:
        """Proposals near enough to the k-th, with their scores in float64, until no query lacks any."""
        slack_Q = 2 * self.index.d * 2.0**-24 * self._longest * np.linalg.norm(queries_QD, axis=1) * 1.001
        count, todo_q = min(selection.rows, k + _SPARE), np.arange(len(queries_QD))
        while len(todo_q):
            lacking = []
            for some_q in np.array_split(todo_q, -(-len(todo_q) * count // _FETCHED)):
                scores_qC, rows_qC = self._search(queries_QD[some_q], count, selection)
                floor_q = scores_qC[:, min(k, count) - 1].astype(np.float64) - slack_Q[some_q]
                done_q = (scores_qC[:, -1] < floor_q) | (count == selection.rows)
                near_n, place_n = np.nonzero((scores_qC >= floor_q[:, None]) & done_q[:, None])
                query_n, row_n = some_q[near_n], rows_qC[near_n, place_n]
                yield Candidates(query_n, self._scores(queries_QD, query_n, row_n), row_n)
                lacking.append(some_q[~done_q])
            todo_q, count = np.concatenate(lacking), min(selection.rows, 4 * count)

    def _scores(self, queries_QD: NDArray[np.float32], query_n: Numbers, row_n: Numbers) -> NDArray[np.float64]:
        """Inner products in float64; each depends on its row and query alone, whatever the others are."""
        out_n = np.empty(len(row_n))
        step = max(1, _SCORED // self.index.d)
        for start in range(0, len(row_n), step):
            part = slice(start, start + step)
            stored_nD = self.index.reconstruct_batch(row_n[part])
            # Not a matrix product: its order of summation follows from its shape. `sum` along the last axis of a
            # contiguous array takes one row after the other.
            products_nD = np.multiply(stored_nD, queries_QD[query_n[part]], dtype=np.float64, order="C")
            out_n[part] = products_nD.sum(axis=1)
        return out_n + 0.0  # -0.0 and 0.0 are one score

    def _search(self, queries_QD: NDArray[np.float32], count: int, selection: _Selection) -> Any:
        settings = None if selection.selector is None else _settings(self.index, selection.selector)
        return self.index.search(queries_QD, count, params=settings)

    def _selection(self, only: str | None) -> _Selection:
        if only not in self._selections:
            self._selections[only] = _select(pc.equal(self._table.column("lang"), only).to_numpy())
        return self._selections[only]

    @cached_property
    def _longest(self) -> float:
        """Length of the longest stored vector."""
        if self.unit:
            return 1.0
        step, total = max(1, _SCORED // self.index.d), self.index.ntotal
        parts = (self.index.reconstruct_n(start, min(step, total - start)) for start in range(0, total, step))
        return max((float(np.linalg.norm(part_nD, axis=1).max()) for part_nD in parts), default=0.0)


def _mapped(parquet: Path) -> pa.Table:
    """The rows of a parquet file, mapped; in one chunk, for `take` joins chunks first."""
    table = pq.read_table(parquet, columns=list(COLUMNS)).cast(_ROWS).combine_chunks()
    with tempfile.NamedTemporaryFile(dir=cache_folder(), prefix="rows-") as file:
        with pa.ipc.new_file(file, _ROWS) as writer:
            writer.write_table(table)
        file.flush()
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()  # stays mapped when the name is gone


def _select(chosen_N: NDArray[np.bool_]) -> _Selection:
    """FAISS' selector of the rows. One run of rows is a range: there FAISS keeps to its fast path."""
    faiss = _faiss()
    row_n = np.flatnonzero(chosen_N)
    if len(row_n) and row_n[-1] - row_n[0] + 1 == len(row_n):
        return _Selection(len(row_n), faiss.IDSelectorRange(int(row_n[0]), int(row_n[-1]) + 1))
    return _Selection(len(row_n), faiss.IDSelectorBitmap(np.packbits(chosen_N, bitorder="little")))


def _settings(index: Any, selector: Any) -> Any:
    """What the index is set to, as parameters of one search, and the selector: FAISS takes either from there alone."""
    faiss = _faiss()
    if isinstance(index, Flat):
        return faiss.SearchParameters(sel=selector)
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_settings(index.index, selector))
    if isinstance(index, faiss.IndexRefine):
        inner = _settings(index.base_index, selector)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


def _faiss() -> Any:
    """FAISS, loaded at need. Untyped: its stubs do not know the keywords that its Python layer adds."""
    import faiss

    return faiss
