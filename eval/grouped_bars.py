"""Grouped bars as inline SVG: a group for each language or variant, a bar for each series, a tick for a level.

Many groups are drawn in bands of one scale, one below the other, so that 112 languages stay readable on one page. The
axis begins at 0: bars are compared by their lengths. A series without a value in a group leaves its place empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from eval.plot_scales import Scale, tick_labels, ticks
from eval.plots import COLOURS
from eval.svg import Svg, draw_line, draw_text, drawing, element

_BAR, _GAP, _WIDEST = 14.0, 12.0, 34.0
_BAND = 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 8.0, 18.0, 30.0
_NARROW, _WIDE = 520.0, 1056.0
_CHARACTER = 7.6


class Group(NamedTuple):
    """Values (fractions) of all series, and a level to compare with."""

    label: str
    values: Sequence[float | None]
    reference: float | None = None


def grouped_bars(title: str, groups: Sequence[Group], names: Sequence[str]) -> Svg:
    """Bars of fractions, in %. Needs a group; every group has a value (or None) for each name."""
    step = _step(groups, names)
    width = _WIDE if is_wide(groups, names) else _NARROW
    room = width - _LEFT - _RIGHT
    per_band = max(int(room // step), 1)
    bands = math.ceil(len(groups) / per_band)
    per_band = math.ceil(len(groups) / bands)
    step = room / per_band
    top = _highest(groups)
    parts = []
    for band in range(bands):
        shown = groups[band * per_band : (band + 1) * per_band]
        parts.append(_band(shown, 0.0 + band * (_BAND + _TOP + _BOTTOM), step, top, width))
    return drawing(width, bands * (_BAND + _TOP + _BOTTOM), _spoken(title, groups, names), "".join(parts))


def is_wide(groups: Sequence[Group], names: Sequence[str]) -> bool:
    """Whether the chart takes a page's whole width."""
    return len(groups) * _step(groups, names) > _NARROW - _LEFT - _RIGHT


def bar_swatch(colour: int) -> Svg:
    """The sample of a legend entry."""
    return drawing(14, 14, "", element("rect", x=1, y=1, width=12, height=12, rx=2, class_=_style(colour)), "swatch")


def reference_swatch() -> Svg:
    """The sample of the published values' ticks."""
    return drawing(18, 14, "", draw_line(1, 7, 17, 7, "chance"), "swatch")


def _step(groups: Sequence[Group], names: Sequence[str]) -> float:
    return max(len(names) * _BAR + _GAP, _CHARACTER * max(len(group.label) for group in groups) + 6)


def _band(groups: Sequence[Group], y: float, step: float, top: float, width: float) -> str:
    scale = Scale(0, top, y + _TOP + _BAND, y + _TOP)
    values = ticks(0, top, 5)
    body = ""
    for value, label in zip(values, tick_labels(values, " %"), strict=True):
        body += draw_line(_LEFT, scale(value), width - _RIGHT, scale(value), "grid" if value else "axis")
        body += draw_text(_LEFT - 8, scale(value) + 4.5, label, "tick", "end")
    for number, group in enumerate(groups):
        middle = _LEFT + (number + 0.5) * step
        body += _group(group, middle, min(_WIDEST, 0.72 * step / len(group.values)), scale)
        body += draw_text(middle, y + _TOP + _BAND + 20, group.label, "tick", "middle")
    return body


def _group(group: Group, middle: float, width: float, scale: Scale) -> str:
    left, body = middle - width * len(group.values) / 2, ""
    for number, value in enumerate(group.values):
        if value is not None:
            y = scale(100 * value)
            height = max(scale.start - y, 0.8)
            body += element(
                "rect", x=left + number * width + 0.6, y=y, width=width - 1.2, height=height, class_=_style(number)
            )
    if group.reference is not None:
        y = scale(100 * group.reference)
        body += draw_line(left - 3, y, left + width * len(group.values) + 3, y, "chance")
    return body


def _highest(groups: Sequence[Group]) -> float:
    """The axis' end: all values and references lie below it."""
    found = [v for group in groups for v in (*group.values, group.reference) if v is not None]
    return max(100 * max(found, default=0.0) * 1.05, 1.0)


def _style(number: int) -> str:
    return f"gbar c{number % COLOURS} k{number // COLOURS % 3}"


def _spoken(title: str, groups: Sequence[Group], names: Sequence[str]) -> str:
    """What a screen reader says: the first and last group, and what the bars are."""
    return f"{title}: {len(groups)} groups ({groups[0].label} to {groups[-1].label}), bars are {', '.join(names)}"
