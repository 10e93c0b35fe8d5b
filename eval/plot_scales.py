"""Axes: round ticks, their labels, and lines made fit to draw.

Ticks are multiples of 1, 2 or 5 times a power of ten, so at least two and at most `most` of them lie on any axis.
Smoothing is a moving straight line: trends keep their slope and the ends do not follow the noise of one point.
Thinning keeps the lowest and highest point of each stretch, so a spike is never lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MINUS = "\N{MINUS SIGN}"  # as wide as the plus and the digits

_NOTHING = 1e-300  # below it are numbers that lose digits and then round to 0: no ticks can be set between them

Points = Sequence[tuple[float, float]]


def domain(values: Sequence[float], from_zero: bool = False, margin: float = 0.0) -> tuple[float, float]:
    """(low, high) of an axis for these values, never empty: a constant gets room around it.

    `margin` is the share of the range to leave free at each end that is not 0.
    """
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= 1e-6 * size or size < _NOTHING:
        room = 0.1 * size if size >= _NOTHING else 1.0
        return (low if from_zero and low == 0 else low - room), high + room
    room = margin * (high - low)
    return low - (room if low else 0), high + (room if high else 0)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within [low, high], rising, evenly spaced; 2 to `most` (5 or more) of them. Needs low < high."""
    exponent = math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = float(f"{factor}e{exponent}")
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [float(f"{i * factor}e{exponent}") for i in range(first, last + 1)]
    raise AssertionError("a step of twenty units always fits")


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, or 1, 2, 5 where there are few, or even steps within a decade."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [value for e in decades for f in factors if low <= (value := float(f"{f}e{e}")) <= high]
        if len(found) >= 3:
            return found[:: -(-len(found) // most)]
    return ticks(low, high, most)


def tick_labels(values: Sequence[float], suffix: str = "") -> list[str]:
    """Distinct labels with the same number of decimals; thousands as 20k, small numbers as 2e-5."""
    top = max(map(abs, values), default=0.0)
    if 0 < top < 1e-3:
        return [scientific(value) + suffix for value in values]
    divisor, unit = next(((d, u) for d, u in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if top >= d), (1.0, ""))
    divisor = 1e3 if unit == "k" else divisor
    scaled = [value / divisor for value in values]
    decimals = next((d for d in range(9) if all(_fits(value, d) for value in scaled)), 9)
    return [f"{value:,.{decimals}f}{unit if value else ''}".replace("-", MINUS) + suffix for value in scaled]


def scientific(value: float, digits: int = 6) -> str:
    """A small number as 2e-5, without needless digits."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", MINUS)


def smooth(points: Points) -> list[tuple[float, float]]:
    """At each point the straight line that fits its neighbourhood, an eighteenth of all points, best."""
    y_N = np.array([y for _, y in points], dtype=np.float64)
    index_N = np.arange(len(y_N))
    half = len(y_N) // 36 + 2
    start_N, end_N = np.maximum(index_N - half, 0), np.minimum(index_N + half + 1, len(y_N))

    def total(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        sums_N = np.concatenate([[0.0], np.cumsum(values_N)])
        return np.asarray(sums_N[end_N] - sums_N[start_N])

    count_N = end_N - start_N
    mean_index_N, mean_y_N = (start_N + end_N - 1) / 2, total(y_N) / count_N
    spread_N = count_N * (count_N**2 - 1) / 12  # sum of squared distances of consecutive integers from their mean
    slope_N = (total(index_N * y_N) - count_N * mean_index_N * mean_y_N) / np.maximum(spread_N, 0.5)
    fitted_N = mean_y_N + slope_N * (index_N - mean_index_N)
    return [(x, float(y)) for (x, _), y in zip(points, fitted_N, strict=True)]


def thin(points: Points, most: int = 400) -> list[tuple[float, float]]:
    """At most `most` (2 or more) of the points: first and last, lowest and highest of each stretch between."""
    if len(points) <= most:
        return list(points)
    stretches = max((most - 2) // 2, 0)
    inner = range(1, len(points) - 1)
    kept = {0, len(points) - 1}
    for k in range(stretches):
        part = inner[k * len(inner) // stretches : (k + 1) * len(inner) // stretches]
        kept |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


class Scale(NamedTuple):
    """Maps [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)


def _fits(value: float, decimals: int) -> bool:
    return math.isclose(round(value, decimals), value, rel_tol=1e-9, abs_tol=1e-12)
