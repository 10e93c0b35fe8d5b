"""Axes: round ticks, their labels, and lines made fit to draw.

Ticks are multiples of 1, 2 or 5 times a power of ten, so at least two and at most `most` of them lie on any axis.
Smoothing is a moving average whose window shrinks at both ends: straight lines stay as they are, the last point is
the run's last value. Thinning keeps the lowest and highest point of each stretch, so a spike is never lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_MINUS = "\N{MINUS SIGN}"  # as wide as the plus and the digits

Points = Sequence[tuple[float, float]]


def domain(values: Sequence[float], from_zero: bool = False) -> tuple[float, float]:
    """(low, high) of an axis for these values, never empty: a constant gets room around it."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= 1e-6 * size or size == 0:
        room = 0.1 * size or 1.0
        return (low if from_zero and low == 0 else low - room), high + room
    return low, high


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
        return [_scientific(value) + suffix for value in values]
    divisor, unit = next(((d, u) for d, u in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if top >= d), (1.0, ""))
    divisor = 1e3 if unit == "k" else divisor
    scaled = [value / divisor for value in values]
    decimals = next((d for d in range(9) if all(_fits(value, d) for value in scaled)), 9)
    return [f"{value:,.{decimals}f}{unit if value else ''}".replace("-", _MINUS) + suffix for value in scaled]


def smooth(points: Points) -> list[tuple[float, float]]:
    """A centred moving average over about a fifteenth of the points, narrower towards both ends."""
    half = len(points) // 30 + 1
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        out.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return out


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


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}".replace("-", _MINUS)
