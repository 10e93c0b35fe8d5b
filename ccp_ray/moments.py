"""Count, mean and variance of vectors, streaming and mergeable.

Chan, Golub and LeVeque 1979 ("Updating formulae and a pairwise algorithm for computing sample variances"): the
moments of two parts give the moments of their union, without the cancellation of sum(x^2) - n mean^2. In float64,
so that the result does not depend on how the rows were split beyond 1e-12.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Moments(NamedTuple):
    """Of some vectors: `squares_D` is the sum of squared deviations from the mean."""

    rows: int
    mean_D: NDArray[np.float64]
    squares_D: NDArray[np.float64]

    @classmethod
    def of(cls, vectors_ND: NDArray[Any]) -> Moments:
        """Of vectors [N, D], N >= 1."""
        exact_ND = vectors_ND.astype(np.float64)
        mean_D = exact_ND.mean(axis=0)
        exact_ND -= mean_D
        return cls(len(vectors_ND), mean_D, np.einsum("nd,nd->d", exact_ND, exact_ND))

    def merge(self, other: Moments) -> Moments:
        """Of both parts together."""
        count = self.rows + other.rows
        delta_D = other.mean_D - self.mean_D
        mean_D = self.mean_D + delta_D * (other.rows / count)
        squares_D = self.squares_D + other.squares_D + delta_D**2 * (self.rows * other.rows / count)
        return Moments(count, mean_D, squares_D)

    def without(self, part: Moments) -> Moments:
        """Of the rows that are not in `part`, which is some of these: `merge` undone. Raises ValueError for none left.

        Deviations are exact to 1e-6 of the larger part's, and never negative.
        """
        count = self.rows - part.rows
        if count < 1:
            raise ValueError(f"{part.rows} of {self.rows} rows taken away: none left")
        mean_D = self.mean_D + (self.mean_D - part.mean_D) * (part.rows / count)
        between_D = (part.mean_D - mean_D) ** 2 * (part.rows * count / self.rows)
        return Moments(count, mean_D, np.maximum(self.squares_D - part.squares_D - between_D, 0.0))

    @property
    def deviation_D(self) -> NDArray[np.float64]:
        """Standard deviation by dimension (of the population: divided by the count)."""
        return np.asarray(np.sqrt(self.squares_D / self.rows))

    def to_json(self) -> dict[str, Any]:
        """Exact: the float64 bytes in base64."""
        return {"count": self.rows, "mean": _encode(self.mean_D), "squares": _encode(self.squares_D)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Moments:
        return cls(int(value["count"]), _decode(value["mean"]), _decode(value["squares"]))


def merged(parts: Iterable[Moments]) -> Moments:
    """The moments of all parts, at least one, in their order."""
    total: Moments | None = None
    for part in parts:
        total = part if total is None else total.merge(part)
    if total is None:
        raise ValueError("no moments to merge")
    return total


def _encode(values_D: NDArray[np.float64]) -> str:
    return base64.b64encode(values_D.astype("<f8").tobytes()).decode()


def _decode(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
