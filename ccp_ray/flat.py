"""Vectors in memory, searched as FAISS' exact index of them would be, without the copy that it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccp_ray.ranking import Numbers

FloatArray = NDArray[np.float32]


class Flat:
    """Of vectors [N, D]: what `ccp_ray.shard` asks of an IndexFlatIP."""

    def __init__(self, vectors_ND: FloatArray) -> None:
        self._vectors_ND: FloatArray = np.ascontiguousarray(vectors_ND, dtype=np.float32)
        self.ntotal, self.d = self._vectors_ND.shape

    def search(self, queries_QD: FloatArray, count: int, params: Any = None) -> tuple[FloatArray, Numbers]:
        """Inner products and numbers [Q, count] of the best rows, best first; -1 where there are fewer.

        params: FAISS' SearchParameters with a selector.
        """
        import faiss

        asked_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        scores_QC = np.empty((len(asked_QD), count), dtype=np.float32)
        rows_QC = np.empty((len(asked_QD), count), dtype=np.int64)
        search: Any = faiss.knn_inner_product  # `faiss.knn` calls it so, without a selector, which its stub lacks too
        given = [faiss.swig_ptr(each) for each in (asked_QD, self._vectors_ND)]
        found = [faiss.swig_ptr(each) for each in (scores_QC, rows_QC)]
        selector = None if params is None else params.sel
        search(*given, self.d, len(asked_QD), self.ntotal, count, *found, selector)
        return scores_QC, rows_QC

    def reconstruct_batch(self, row_n: Numbers) -> FloatArray:
        return self._vectors_ND[row_n]

    def reconstruct_n(self, start: int, count: int) -> FloatArray:
        return self._vectors_ND[start : start + count]
