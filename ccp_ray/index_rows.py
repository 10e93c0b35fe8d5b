"""The vectors that an index holds: pieces of embeddings, calibrated or put to unit length as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from ccp_ray.calibration import Calibration, unit
from ccp_ray.embeddings import Embeddings, EmbeddingsPiece, FloatArray
from ccp_ray.index_config import Metric


class RowSource(NamedTuple):
    """Where rows come from and what is done to them. Plain values: it travels to tasks."""

    embeddings: str
    calibration: str | None
    metric: Metric

    def open(self) -> IndexRows:
        """Raises UsageError and DataError as the artifacts' own readers do."""
        calibration = Calibration.open(self.calibration) if self.calibration else None
        return IndexRows(Embeddings.open(self.embeddings), calibration, self.metric)


class IndexRows:
    """Reads piece by piece. Memory: three copies of a piece, and one of the next while streaming."""

    def __init__(self, embeddings: Embeddings, calibration: Calibration | None, metric: Metric) -> None:
        self.embeddings, self._calibration, self._metric = embeddings, calibration, metric

    def piece(self, number: int) -> EmbeddingsPiece:
        return self.embeddings.pieces[number]

    def stream(self, numbers: Iterable[int]) -> Iterator[tuple[FloatArray, pa.Table]]:
        """`read` of each piece; the next one is read while the caller works on this one."""
        with ThreadPoolExecutor(1) as ahead:
            waiting = None
            for number in numbers:
                following = ahead.submit(self.read, number)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def read(self, number: int) -> tuple[FloatArray, pa.Table]:
        """Vectors [rows, D] as the index holds them, and their table (id, lang, text).

        Calibrated vectors have unit length; others have it for cosine and are as they were for inner product.
        """
        vectors_ND, table = self.embeddings.read(self.piece(number))
        if self._calibration is None:
            return (unit(vectors_ND) if self._metric == "cosine" else vectors_ND), table
        return self._calibration.apply_each(vectors_ND, table.column("lang").to_pylist()), table
