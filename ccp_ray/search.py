"""Search the shards of an index: exact top-k, the same at any number of shards.

FAISS proposes candidates in each shard (a few more than k); their scores are computed again in float64 and ordered by
score, then id. FAISS' own float32 scores depend in the last bit on how many vectors and queries are multiplied at once,
so ties and near-ties would otherwise fall differently with the number of shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.errors import UsageError
from ccp_ray.index import unit
from ccp_ray.ledger import verified_copy
from ccp_ray.model_source import cache_folder, model_reference

_SPARE = 16  # candidates beyond k, for ties and for float32's last bit


class Hit(NamedTuple):
    """One result; score is the cosine."""

    id: str
    score: float
    lang: str
    text: str


class _Shard:
    def __init__(self, artifact: Artifact, name: str) -> None:
        import faiss

        records = {record.path: record for record in artifact.files}
        keys = [f"shards/{name}.{kind}" for kind in ("faiss", "parquet")]
        vectors, rows = (verified_copy(artifact.store, records[key], cache_folder() / "shards") for key in keys)
        # Hashed when opened (an altered shard must not answer), then mapped: vectors cost memory for pages in use.
        self.index = faiss.read_index(str(vectors), faiss.IO_FLAG_MMAP_IFC)
        self.table = pq.read_table(rows, memory_map=True)

    def candidates(self, queries_QD: Any, k: int, lang: str | None) -> list[list[tuple[float, int]]]:
        """(score, row) of the best rows of each query, every tie of the last one among them."""
        import faiss

        rows = self._rows(lang)
        most = self.index.ntotal if rows is None else len(rows)
        if most == 0:
            return [[] for _ in queries_QD]
        selector = None if rows is None else faiss.IDSelectorBatch(rows)
        count = min(most, k + _SPARE)
        while True:
            settings = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            scores_QC, rows_QC = self.index.search(queries_QD, count, params=settings)
            tied = k <= count and bool((scores_QC[:, -1] >= scores_QC[:, min(k, count) - 1] - 1e-6).any())
            if count == most or not tied:
                break
            count = min(most, 2 * count)
        return [self._rescore(query_D, found_C) for query_D, found_C in zip(queries_QD, rows_QC, strict=True)]

    def hit(self, row: int, score: float) -> Hit:
        values = self.table.slice(row, 1).to_pylist()[0]
        return Hit(values["id"], score, values["lang"], values["text"])

    def _rescore(self, query_D: Any, rows_C: Any) -> list[tuple[float, int]]:
        stored_CD = self.index.reconstruct_batch(rows_C).astype(np.float64)
        # One dot product a row: a matrix product would sum in an order that depends on its shape.
        return [
            (float(np.dot(row_D, query_D.astype(np.float64))), int(n))
            for row_D, n in zip(stored_CD, rows_C, strict=True)
        ]

    def _rows(self, lang: str | None) -> NDArray[np.int64] | None:
        if lang is None:
            return None
        return np.flatnonzero(np.array(self.table.column("lang").to_pylist()) == lang).astype(np.int64)


class Index:
    """An index artifact, open for search.

    >>> index = Index.open("runs/quickstart/index")      # doctest: +SKIP
    >>> index.search(queries_QD, k=10)                   # doctest: +SKIP
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.dimensions = int(artifact.summary["dimensions"])
        self._shards = [_Shard(artifact, shard["name"]) for shard in artifact.summary["shards"]]

    @classmethod
    def open(cls, uri: str) -> Index:
        """Raises UsageError where there is no finished index, StoreError where a shard was altered."""
        return cls(open_artifact(uri, "index"))

    def search(self, queries_QD: NDArray[np.float32], k: int = 10, lang: str | None = None) -> list[list[Hit]]:
        """The k nearest rows of each query by cosine, best first, ties by id; only rows of `lang` if given.

        Raises UsageError for k below 1, another width than the index', NaN or infinity.
        """
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.dimensions:
            raise UsageError(f"queries have shape {queries_QD.shape}, expected [queries, {self.dimensions}]")
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        bad = np.flatnonzero(~np.isfinite(queries_QD).all(axis=1))
        if len(bad):
            raise UsageError(f"query {bad[0]}: NaN or infinity in its vector")
        queries_QD = np.ascontiguousarray(unit(queries_QD.astype(np.float32)))
        found = [shard.candidates(queries_QD, k, lang) for shard in self._shards]
        return [self._merge([rows[q] for rows in found], k) for q in range(len(queries_QD))]

    @property
    def languages(self) -> list[str]:
        """Languages of the rows, sorted."""
        return sorted({lang for shard in self._shards for lang in shard.table.column("lang").unique().to_pylist()})

    def embed_queries(self, texts: Sequence[str], lang: str | None) -> NDArray[np.float32]:
        """Vectors [Q, D] of query texts, as the index' own texts were embedded and calibrated.

        Raises UsageError if the encoder changed since, or if the index is calibrated and no language is given.
        """
        from ccp_ray.calibration import Calibration
        from ccp_ray.encoder import Encoder

        recorded = self.artifact.summary["encoder"]
        if model_reference("encoder", recorded["uri"]).fingerprint != recorded["fingerprint"]:
            raise UsageError(f"{recorded['uri']}: the encoder changed since the index was built; build the index again")
        settings = self.artifact.summary["encoding"]
        encoder = Encoder.load(recorded["uri"], pooling=settings["pooling"])
        encoder.max_tokens = min(encoder.max_tokens, settings["max_tokens"] or encoder.max_tokens)
        vectors_QD = encoder.encode(texts)
        if not self.artifact.summary["calibrated"]:
            return vectors_QD
        calibration = Calibration.open(self.artifact.input("calibration").uri)
        known = ", ".join(sorted(calibration.languages))
        if lang is None:
            raise UsageError(f"--lang: the index is calibrated by language; say the language of the query ({known})")
        if lang not in calibration.languages:
            raise UsageError(f"--lang {lang}: the calibration does not know this language; it knows {known}")
        calibrated_QD: NDArray[np.float32] = calibration.apply(vectors_QD, lang)
        return calibrated_QD

    def _merge(self, shards: list[list[tuple[float, int]]], k: int) -> list[Hit]:
        hits = [
            self._shards[number].hit(row, score) for number, rows in enumerate(shards) for score, row in _first(rows, k)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]


def _first(rows: list[tuple[float, int]], k: int) -> list[tuple[float, int]]:
    """The k best rows and all that tie with the last of them."""
    ordered = sorted(rows, key=lambda pair: -pair[0])
    return [pair for pair in ordered if len(ordered) <= k or pair[0] >= ordered[k - 1][0]]
