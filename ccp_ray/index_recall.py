"""Recall of an approximate index against exact search, measured on rows that trained nothing, and the search
parameters that follow from it.

Stage "recall", one task a shard: read its index once and its vectors once, piece by piece; take the exact k nearest
of every query and what the index finds with each of a ladder of parameters (`nprobe` or `efSearch`, doubling). Merged
over the shards as search merges them. A query is a row of the index: that row is left out of both lists. What was
found counts if its exact score is that of the k-th exact neighbour or higher: copies of a text are as good as it.
Chosen are the cheapest parameters that reach the target, else those with the best recall.

Cost a shard: one exact search of the queries, and two at the top of the ladder: 1,000 queries and a million rows of 384
dimensions take about 15 s exact on one core.
Working files, in `_recall/`: 4 bytes x queries x k x (1 + 2 x parameters) a shard. Memory: the shard's index,
four copies of a piece, and a vector for each of queries x k x parameters that lie in one piece.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.artifact import Output
from ccp_ray.embeddings import Embeddings, FloatArray
from ccp_ray.errors import UsageError
from ccp_ray.index_anatomy import set_parameters
from ccp_ray.index_file import read_index
from ccp_ray.index_rows import IndexRows, RowSource
from ccp_ray.index_sample import Draw, Sample, load
from ccp_ray.index_shards import Shard
from ccp_ray.ledger import Entry, FileRecord, put_bytes, verified_copy
from ccp_ray.pieces import run_pieces
from ccp_ray.storage import open_store

DEFAULT_TARGET = 0.95
AS_IT_IS = "default"  # in `by_parameters`: an index without search parameters
_NEVER = -np.inf


class Recall(NamedTuple):
    """Measured: by parameters, cheapest first; `chosen` among them. No `by_parameters` where there was no query: then
    `chosen` is the dearest of the ladder."""

    k: int
    queries: int
    target: float
    by_parameters: dict[str, float]
    chosen: str

    def summary(self) -> dict[str, Any] | None:
        """What an index keeps of it."""
        return self._asdict() if self.by_parameters else None

    @property
    def sentence(self) -> str:
        """For a person."""
        if not self.by_parameters:
            return "recall was not measured: there are too few rows to hold one out"
        reached = self.by_parameters[self.chosen or AS_IT_IS]
        found = f"recall@{self.k} is {reached:.3f}" + (f" with {self.chosen}" if self.chosen else "")
        if reached >= self.target:
            return f"{found}, the target of {self.target} is reached"
        return f"{found}, the target of {self.target} was not reached; give it more memory, or another factory"


def measure(
    target: Output,
    source: RowSource,
    shards: list[Shard],
    files: dict[str, Entry],
    drawn: Draw,
    samples: list[Sample],
    *,
    ladder: list[str],
    own: str | None,
    k: int,
    aim: float | None,
    cpus: float,
) -> Recall:
    """Recall@k of the shards (`files`: their entries) with each of the ladder's parameters and the user's `own`."""
    aim = DEFAULT_TARGET if aim is None else aim
    parameters = ladder if own is None or own in ladder else [*ladder, own]
    embeddings = source.open().embeddings
    firsts, queries = _first_queries(embeddings, drawn)
    k = min(k, embeddings.rows - 1)
    if not queries or not k:
        return Recall(k, 0, aim, {}, own or ladder[-1])
    job = {"output": target.uri, "source": source._asdict(), "draw": drawn._asdict(), "parameters": parameters, "k": k}
    job |= {"queries": [sample.queries.model_dump() for sample in samples], "threads": max(int(cpus), 1)}
    plan = {}
    for shard in shards:
        record = files[shard.name].files[0]
        mine = {"pieces": shard.pieces, "firsts": [firsts[number] for number in shard.pieces]}
        plan[f"{shard.name}-{drawn.digest}"] = job | mine | {"index": record.model_dump()}
    entries = run_pieces(target, "recall", plan, _measure_shard, cpus=cpus)
    best = _merged((load(target.store, entry.files) for entry in entries.values()), k)
    by_parameters = {name or AS_IT_IS: share for name, share in zip(parameters, recall_of(*best), strict=True)}
    return Recall(k, queries, aim, by_parameters, _choose(by_parameters, own, aim))


def recall_of(exact_Qk: FloatArray, found_PQk: FloatArray) -> list[float]:
    """The share of found rows [P, Q, k], by their exact score, among the exact neighbours' [Q, k], for each P."""
    last_Q1 = exact_Qk.min(axis=1, keepdims=True)
    reached_Q1 = last_Q1 - 1e-6 * np.maximum(np.abs(last_Q1), 1)  # float32's last bit
    return [float((found_Qk >= reached_Q1).mean()) for found_Qk in found_PQk]


def _choose(by_parameters: dict[str, float], own: str | None, aim: float) -> str:
    if own is not None:
        return own
    enough = [name for name, share in by_parameters.items() if share >= aim]
    name = enough[0] if enough else max(by_parameters, key=lambda each: by_parameters[each])
    return "" if name == AS_IT_IS else name


def _first_queries(embeddings: Embeddings, drawn: Draw) -> tuple[list[int], int]:
    """The number of the first query of each piece, and of all queries."""
    firsts, total = [], 0
    for piece in embeddings.pieces:
        firsts.append(total)
        total += len(drawn.query_rows(piece))
    return firsts, total


def _merged(shards: Iterable[FloatArray], k: int) -> tuple[FloatArray, FloatArray]:
    """Of [1 + 2P, Q, k] a shard (exact; as found; exact of found): the exact best and the exact of the best found."""
    exact_Qk = found_PQk = true_PQk = None
    for scores in shards:
        exact, found, true = scores[0], *np.split(scores[1:], 2)
        if exact_Qk is None or found_PQk is None or true_PQk is None:
            exact_Qk, found_PQk, true_PQk = exact, found, true
            continue
        exact_Qk = -np.sort(-np.concatenate([exact_Qk, exact], axis=-1), axis=-1)[..., :k]
        both, both_true = np.concatenate([found_PQk, found], axis=-1), np.concatenate([true_PQk, true], axis=-1)
        order = np.argsort(-both, axis=-1, kind="stable")[..., :k]
        found_PQk, true_PQk = np.take_along_axis(both, order, -1), np.take_along_axis(both_true, order, -1)
    if exact_Qk is None or true_PQk is None:
        raise UsageError("no shards to measure")
    return exact_Qk, true_PQk


def _measure_shard(name: str, job: dict[str, Any]) -> Entry:
    import faiss

    faiss.omp_set_num_threads(job["threads"])
    store, rows, drawn = open_store(job["output"]), RowSource(**job["source"]).open(), Draw(**job["draw"])
    queries_QD = load(store, [FileRecord.model_validate(record) for record in job["queries"]])
    own_Q = _own_rows(rows, drawn, job, len(queries_QD))
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        record = FileRecord.model_validate(job["index"])
        built = read_index(verified_copy(store, record, Path(scratch)), store.uri(record.path))
    found = [_search(built, queries_QD, own_Q, parameters, job["k"]) for parameters in job["parameters"]]
    del built
    numbers_PQk = np.stack([numbers for _, numbers in found])
    exact_Qk, true_PQk = _exact(rows, job["pieces"], queries_QD, own_Q, numbers_PQk)
    scores = np.concatenate([exact_Qk[None], np.stack([scores for scores, _ in found]), true_PQk])
    buffer = io.BytesIO()
    np.save(buffer, scores.astype(np.float32))
    return Entry(files=[put_bytes(store, f"_recall/{name}.npy", buffer.getvalue())])


def _own_rows(rows: IndexRows, drawn: Draw, job: dict[str, Any], queries: int) -> NDArray[np.int64]:
    """The row of the shard that each query [Q] is, -1 for those of other shards."""
    own_Q = np.full(queries, -1, dtype=np.int64)
    start = 0
    for number, first in zip(job["pieces"], job["firsts"], strict=True):
        mine = drawn.query_rows(rows.piece(number))
        own_Q[first : first + len(mine)] = start + mine
        start += rows.piece(number).rows
    return own_Q


def _search(
    built: Any, queries_QD: FloatArray, own_Q: NDArray[np.int64], parameters: str, k: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Scores and rows [Q, k] that the index finds, without each query's own row; -inf and -1 where it finds fewer."""
    set_parameters(built, parameters)
    scores_Qn, rows_Qn = built.search(queries_QD, k + 1)
    scores_Qn = np.where((rows_Qn < 0) | (rows_Qn == own_Q[:, None]), _NEVER, scores_Qn)
    order_Qk = np.argsort(-scores_Qn, axis=1, kind="stable")[:, :k]
    scores_Qk = np.take_along_axis(scores_Qn, order_Qk, 1)
    return scores_Qk, np.where(np.isfinite(scores_Qk), np.take_along_axis(rows_Qn, order_Qk, 1), -1)


def _exact(
    rows: IndexRows,
    pieces: list[int],
    queries_QD: FloatArray,
    own_Q: NDArray[np.int64],
    found_PQk: NDArray[np.int64],
) -> tuple[FloatArray, FloatArray]:
    """The best exact scores [Q, k] of the shard without each query's own row, and those of the rows found [P, Q, k]."""
    import faiss

    k = found_PQk.shape[2]
    best_Qk = np.full((len(queries_QD), k), _NEVER, dtype=np.float32)
    true_PQk = np.full(found_PQk.shape, _NEVER, dtype=np.float32)
    start = 0
    for vectors_ND, _ in rows.stream(pieces):
        here = (found_PQk >= start) & (found_PQk < start + len(vectors_ND))
        which = np.nonzero(here)
        true_PQk[which] = _products(queries_QD[which[1]], vectors_ND[found_PQk[which] - start])
        _, rows_Qn = faiss.knn(queries_QD, vectors_ND, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
        lost = (rows_Qn < 0) | (rows_Qn + start == own_Q[:, None])
        again = _products(queries_QD[:, None], vectors_ND[np.maximum(rows_Qn, 0)])
        best_Qk = -np.sort(-np.concatenate([best_Qk, np.where(lost, _NEVER, again)], axis=1), axis=1)[:, :k]
        start += len(vectors_ND)
    return best_Qk, true_PQk


def _products(left: FloatArray, right: FloatArray) -> FloatArray:
    """Inner products over the last axis; the same arithmetic for what is exact and what was found."""
    products: FloatArray = np.einsum("...d,...d->...", left, right, optimize=False)
    return products
