"""The search part of the bench: queries/s of `Index.search` at several numbers of shards against one `IndexFlatIP`.

Both hold the same unit vectors and give the ten best rows. Ours also scores its candidates again in float64, orders
them by score and id and looks up the rows' texts; FAISS gives numbers of rows. Batches of 64 queries and single ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccp_ray.errors import DataError
from ccp_ray.index import IndexConfig, index, unit
from ccp_ray.search import Index
from ccp_ray.session import ray_session
from jobs.benches.artifacts import random_vectors, write_embeddings
from jobs.benches.figures import BenchOptions, Figure, interleaved, median, median_ratio, report

SHARDS = (1, 2, 7, 16)
K = 10
_QUERIES = 256
_BATCHES = {64: "batches of 64 queries", 1: "single queries"}
_PLAIN = "IndexFlatIP"


def search_bench(options: BenchOptions) -> dict[str, Any]:
    """options.rows vectors of options.dimensions, drawn by chance. Raises DataError where two answers differ."""
    import faiss

    vectors_ND = unit(random_vectors(options.rows, options.dimensions)).astype(np.float32)
    queries_QD = unit(random_vectors(_QUERIES, options.dimensions, seed=1)).astype(np.float32)
    plain = faiss.IndexFlatIP(options.dimensions)
    plain.add(vectors_ND)
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
        with ray_session():
            places = {shards: _sharded(vectors_ND, shards, Path(folder)) for shards in SHARDS}
        opened = {shards: Index.open(place) for shards, place in places.items()}
        for shards, ours in opened.items():
            _check(ours, plain, queries_QD[:8], shards)
        figures: list[Figure] = []
        measured: dict[str, Any] = {}
        for batch, label in _BATCHES.items():
            contenders = _contenders(opened, plain, queries_QD, batch)
            for run in contenders.values():
                run()  # touches the mapped pages
            rounds = interleaved(contenders, options.rounds, f"search, {label}")
            measured[label] = rounds
            figures += _figures(rounds, label)
    return report(figures, rows=options.rows, dimensions=options.dimensions, k=K, queries=_QUERIES, seconds=measured)


def _sharded(vectors_ND: NDArray[np.float32], shards: int, folder: Path) -> str:
    pieces = np.array_split(vectors_ND, shards)
    embeddings = write_embeddings(str(folder / f"embeddings-{shards}"), pieces)
    config = IndexConfig(shard_rows=max(map(len, pieces)))
    built = index(embeddings.uri, str(folder / f"index-{shards}"), config)
    if len(built.summary["shards"]) != shards:
        raise DataError(f"{built.uri}: {len(built.summary['shards'])} shards, expected {shards}; use more --rows")
    return built.uri


def _check(ours: Index, plain: Any, queries_QD: NDArray[np.float32], shards: int) -> None:
    """A fast search that finds other rows has no speed."""
    _, rows_QK = plain.search(queries_QD, K)
    expected = [[f"t{row:08d}" for row in rows_K] for rows_K in rows_QK]
    found = [[hit.id for hit in hits] for hits in ours.search(queries_QD, K)]
    if [set(ids) for ids in found] != [set(ids) for ids in expected]:
        raise DataError(f"search over {shards} shards finds other rows than IndexFlatIP; its speed means nothing")


def _contenders(
    opened: dict[int, Index], plain: Any, queries_QD: NDArray[np.float32], batch: int
) -> dict[str, Callable[[], float]]:
    searches: dict[str, Callable[[NDArray[np.float32]], Any]] = {_PLAIN: lambda part: plain.search(part, K)}
    for shards, ours in opened.items():
        searches[_name(shards)] = lambda part, ours=ours: ours.search(part, K)  # type: ignore[misc]
    return {name: _timed(search, queries_QD, batch) for name, search in searches.items()}


def _timed(
    search: Callable[[NDArray[np.float32]], Any], queries_QD: NDArray[np.float32], batch: int
) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        for start in range(0, len(queries_QD), batch):
            search(queries_QD[start : start + batch])
        return time.perf_counter() - started

    return run


def _figures(rounds: list[dict[str, float]], label: str) -> list[Figure]:
    figures = [Figure(f"{_PLAIN}, {label}", _QUERIES / median(rounds, _PLAIN), "queries/s")]
    for shards in SHARDS:
        ratio = median_ratio(rounds, _PLAIN, _name(shards))
        figures.append(Figure(f"{_name(shards)} / {_PLAIN}, {label}", ratio, at_least=0.9))
    return figures


def _name(shards: int) -> str:
    return f"{shards} shard{'s' * (shards > 1)}"
