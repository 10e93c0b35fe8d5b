"""Some shards of an index, open in this process, and the best rows of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact
from ccp_ray.ranking import best, leading
from ccp_ray.session import machine_cpus
from ccp_ray.shard import Candidates, Shard

_BATCH = 20  # queries from which FAISS multiplies matrices, with all cores
_TEXT = ("lang", "text")
_TEXT_COLUMNS = pa.schema([(name, pa.large_string()) for name in _TEXT])


class Shards:
    """The shards of these numbers (all).

    Few queries: a thread a core, each with a shard, for FAISS shares out queries only. Many: one shard after the other.
    """

    def __init__(self, artifact: Artifact, numbers: Iterable[int] | None = None, threads: int | None = None) -> None:
        chosen = range(len(artifact.summary["shards"])) if numbers is None else numbers
        self._shards = {number: Shard.open(artifact, number) for number in chosen}
        self._threads = ThreadPoolExecutor(threads or machine_cpus(), "ccp-ray-search", initializer=_one_thread)

    @property
    def languages(self) -> set[str]:
        """Languages of the rows."""
        return set().union(*(shard.languages for shard in self._shards.values()))

    def best(self, queries_QD: NDArray[np.float32], k: int, only: str | None = None) -> pa.Table:
        """The k best rows of each query: the columns of `RANKED`, lang and text, by query and best first."""
        found = list(self._each(queries_QD, k, only))
        query_n, score_n = (np.concatenate([part[i] for part in found]) for i in range(2))
        kept_n = np.zeros(len(query_n), dtype=bool)
        kept_n[leading(query_n, score_n, k)] = True  # ids are looked up for these alone
        masks = np.split(kept_n, np.cumsum([len(part.query_n) for part in found])[:-1])
        triples = zip(self._shards.values(), found, masks, strict=True)
        return self._with_rows(best([shard.ranked(part.where(mask_n)) for shard, part, mask_n in triples], k))

    def close(self) -> None:
        """End the threads and unmap the shards."""
        self._threads.shutdown()
        self._shards.clear()

    def _with_rows(self, ranked: pa.Table) -> pa.Table:
        """The table with lang and text: one `take` a shard, then one into the order of the hits."""
        shard_n, row_n = (ranked.column(name).to_numpy() for name in ("shard", "row"))
        order_n = np.argsort(shard_n, kind="stable")
        numbers, starts = np.unique(shard_n[order_n], return_index=True)
        cut = np.split(row_n[order_n], starts[1:])
        parts = [self._shards[number].rows(rows, _TEXT) for number, rows in zip(numbers.tolist(), cut, strict=False)]
        rows = pa.concat_tables(parts).take(pa.array(np.argsort(order_n))) if parts else _TEXT_COLUMNS.empty_table()
        for name in _TEXT:
            ranked = ranked.append_column(name, rows.column(name))
        return ranked

    def _each(self, queries_QD: NDArray[np.float32], k: int, only: str | None) -> Iterable[Candidates]:
        def ask(shard: Shard) -> Candidates:
            return shard.candidates(queries_QD, k, only)

        shards = self._shards.values()
        return self._threads.map(ask, shards) if len(queries_QD) < _BATCH else map(ask, shards)


def _one_thread() -> None:
    import faiss

    faiss.omp_set_num_threads(1)  # of this thread's searches: the shards are what is shared out
