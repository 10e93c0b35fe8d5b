"""The ratio margin of Artetxe and Schwenk (2019, arXiv 1811.01136): a cosine, relative to how crowded both ends are.

    margin(x, y) = cos(x, y) / ((mean cos of x to its k nearest y' + mean cos of y to its k nearest x') / 2)

A sentence that lies near to everything (a hub) wins by plain cosine for many queries; the margin takes that from it.
The variant is that of LASER's `xsim.py`: for each x only its k nearest y by cosine are scored again, and the best of
them is its translation; k = 4; the neighbourhoods of x lie in the other language's side, those of y in x's side. (Other
code takes the best margin of all y: then a y outside of the k nearest may win.) Neighbours are `eval.metrics`'s: where
cosines tie at the k-th place, the lowest number is in; of equal margins the higher cosine wins, then the lowest number.

A ratio means something where cosines of neighbours are positive. LASER does not guard against others and neither do we,
but for a neighbourhood of exactly 0, whose margin is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import Neighbours


def margin_nearest(forward: Neighbours, backward: Neighbours) -> NDArray[np.int64]:
    """For each query [N] the candidate of the best ratio margin.

    `forward` are the queries' neighbours among the candidates, `backward` the candidates' among the queries.
    """
    around_N = forward.similar_NK.mean(axis=1, dtype=np.float64)
    around_M = backward.similar_NK.mean(axis=1, dtype=np.float64)
    local_NK = (around_N[:, None] + around_M[forward.index_NK]) / 2
    best_N = _ratio(forward.similar_NK, local_NK).argmax(axis=1)
    return np.asarray(forward.index_NK[np.arange(len(best_N)), best_N])


def _ratio(similar_NK: NDArray[Any], local_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    zeros_NK = np.zeros_like(local_NK)
    return np.asarray(np.divide(similar_NK, local_NK, out=zeros_NK, where=local_NK != 0))
