"""Charts as inline SVG, drawn by hand: lines, scatter plots, bars, dumbbells, intervals.

No drawing library: the page needs five kinds of chart, must stay one small file and follow the reader's dark or
light setting. So colours are classes (`c0` to `c9`) that the page's style sheet fills in, and an eleventh series
gets the first colour again with another dash or marker. Points of a scatter plot are one path a language and
slice, 12 bytes a point instead of the 45 of a <circle>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from eval.plot_scales import Points, Scale, domain, log_ticks, smooth, thin, tick_labels, ticks
from eval.svg import Svg, coordinate, draw_line, draw_text, drawing, element

COLOURS = 10
_WIDTH, _HEIGHT = 520, 300
_CHARACTER = 8.2  # mean width at 15 px, the largest size that the style sheet gives tick labels
_SMOOTH_FROM = 12
_SLICES = 6


class Line(NamedTuple):
    """A series to draw; `colour` is its number in the palette, None for a reference level."""

    name: str
    points: Points
    colour: int | None = 0


class Dumbbell(NamedTuple):
    """A row of a dumbbell chart: values of one thing at several times, and a level to compare with."""

    label: str
    values: Sequence[float | None]
    reference: float | None = None


class Interval(NamedTuple):
    """A row of an interval chart: a value and its reach to either side; `tone` is good, bad or neutral."""

    label: str
    value: float
    reach: float
    tone: str = "neutral"


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
    percent: bool = False,
    from_zero: bool = False,
    smoothed: bool = False,
    x_ticks: Sequence[float] | None = None,
) -> Svg:
    """Lines over a common x axis. Needs at least one point; values above 0 for `log_y`. Percent: y are fractions.

    x_ticks: where to label the x axis; None for round numbers.
    """
    scaled = [line._replace(points=[(x, 100 * y if percent else y) for x, y in line.points]) for line in lines]
    xs = [x for line in scaled for x, _ in line.points]
    ys = [y for line in scaled for _, y in line.points]
    low, high = domain(ys, from_zero, 0 if log_y else 0.04)
    y_ticks = log_ticks(low, high) if log_y else ticks(low, high)
    labels = tick_labels(y_ticks, " %" if percent else "")
    left = 14 + _CHARACTER * max(map(len, labels))
    x_scale = Scale(*domain(xs), left, _WIDTH - 18)
    y_scale = Scale(low, high, _HEIGHT - 46, 34 if y_label else 16, log_y)
    body = _grid(zip(y_ticks, labels, strict=True), y_scale, left) + _x_axis(x_scale, x_label, values=x_ticks)
    body += draw_text(0, 13, y_label, "label") if y_label else ""
    # References first, then all faint lines: no bold line is covered by another series' noise.
    drawn = [(line, thin(line.points), _bold(line, smoothed)) for line in scaled if line.points]
    for line, raw, bold in drawn:
        if line.colour is None or bold != raw:
            body += _path(raw, x_scale, y_scale, "ref" if line.colour is None else f"raw {_style(line.colour)}")
    for line, _, bold in drawn:
        if line.colour is not None:
            body += _path(bold, x_scale, y_scale, f"line {_style(line.colour)}")
            x, y = bold[-1]
            body += element("circle", cx=x_scale(x), cy=y_scale(y), r=3.2, class_=f"dot {_style(line.colour)}")
    return drawing(_WIDTH, _HEIGHT, _describe(title, lines, percent), body)


def scatter(
    title: str, points: Sequence[tuple[str, float, float]], colours: Mapping[str, int], links: Sequence[Sequence[int]]
) -> Svg:
    """Points (group, x, y) coloured by group, both axes in the same unit; each link joins points through their middle.

    Groups are named in the plot where their middles lie apart enough to read all the names.
    """
    width, height = 520, 460
    xs, ys = [x for _, x, _ in points], [y for _, _, y in points]
    x_scale, y_scale = _equal_scales(xs, ys, width, height)
    x_ticks, y_ticks = (ticks(scale.low, scale.high) for scale in (x_scale, y_scale))
    body = _grid(zip(y_ticks, tick_labels(y_ticks), strict=True), y_scale, x_scale.start, width)
    body += "".join(draw_line(x_scale(x), y_scale.end, x_scale(x), y_scale.start, "grid") for x in x_ticks)
    body += _x_axis(x_scale, "first component", height, x_ticks) + draw_text(0, 13, "second component", "label")
    placed = [(group, x_scale(x), y_scale(y)) for group, x, y in points]
    for slice_ in range(_SLICES):  # slice by slice, so that no language hides the others
        for group in sorted(colours):
            own = [(x, y) for name, x, y in placed if name == group][slice_::_SLICES]
            body += _markers(own, colours[group]) if own else ""
    body += "".join(_star([placed[i] for i in link], colours) for link in links)
    body += _names(placed, colours)
    groups = len({group for group, _, _ in points})
    return drawing(width, height, f"{title}: {len(points):,} points of {groups} languages", body)


def bar_chart(title: str, bars: Sequence[tuple[str, float]], best: str) -> Svg:
    """Horizontal bars of fractions, with the value in % at each; the one named `best` is emphasised."""
    row, top = 34, 6
    left = 12 + _CHARACTER * max(len(name) for name, _ in bars)
    scale = Scale(0, max(*(value for _, value in bars), 1e-9), left, _WIDTH - 76)
    body = draw_line(left, 0, left, top + row * len(bars), "axis")
    for i, (name, value) in enumerate(bars):
        y = top + i * row
        mark = " best" if name == best else ""
        width = max(scale(value) - left, 1.0)
        body += draw_text(left - 10, y + 19, name, f"tick{mark}", "end")
        body += element("rect", x=left, y=y + 4, width=width, height=row - 12, rx=3, class_=f"bar{mark}")
        body += draw_text(left + width + 8, y + 20, f"{100 * value:.1f} %", f"value{mark}")
    spoken = ", ".join(f"{name} {100 * value:.1f} %" for name, value in bars)
    return drawing(_WIDTH, top + row * len(bars), f"{title}: {spoken}", body)


def dumbbell_chart(title: str, rows: Sequence[Dumbbell], names: Sequence[str]) -> Svg:
    """A row for each thing: its values (fractions) as dots joined by a line, a tick at the reference level."""
    row, top = 28, 8
    values = [v for item in rows for v in (*item.values, item.reference) if v is not None]
    low, high = domain([100 * value for value in values], True, 0.04)
    left = 14 + _CHARACTER * max(len(item.label) for item in rows)
    bottom = top + row * len(rows)
    x_scale = Scale(low, high, left, _WIDTH - 24)
    x_ticks = ticks(low, high)
    body = "".join(draw_line(x_scale(x), top, x_scale(x), bottom, "grid") for x in x_ticks)
    body += _x_axis(x_scale, "", bottom + 46, x_ticks, " %")
    for i, item in enumerate(rows):
        y = top + (i + 0.5) * row
        xs = [(k, x_scale(100 * value)) for k, value in enumerate(item.values) if value is not None]
        body += draw_text(left - 10, y + 4.5, item.label, "tick", "end")
        if xs:
            body += draw_line(min(x for _, x in xs), y, max(x for _, x in xs), y, "bridge")
        if item.reference is not None:
            body += draw_line(x_scale(100 * item.reference), y - 7, x_scale(100 * item.reference), y + 7, "chance")
        body += "".join(element("circle", cx=x, cy=y, r=5, class_=f"time t{k}") for k, x in xs)
    return drawing(_WIDTH, bottom + 30, f"{title}, by language: {', '.join(names)}", body)


def interval_chart(title: str, rows: Sequence[Interval], x_label: str) -> Svg:
    """A row for each value: a dot with whiskers; the line at 0 stands for no difference. Needs a row."""
    row, top = 26, 8
    reached = [end for item in rows for end in (item.value - item.reach, item.value + item.reach)]
    low, high = domain(reached, True, 0.04)
    left = 14 + _CHARACTER * max(len(item.label) for item in rows)
    bottom = top + row * len(rows)
    x_scale = Scale(low, high, left, _WIDTH - 24)
    x_ticks = ticks(low, high)
    body = "".join(draw_line(x_scale(x), top, x_scale(x), bottom, "grid") for x in x_ticks)
    body += _x_axis(x_scale, x_label, bottom + 46, x_ticks) + draw_line(x_scale(0), top, x_scale(0), bottom, "zero")
    for i, item in enumerate(rows):
        y = top + (i + 0.5) * row
        ends = x_scale(item.value - item.reach), x_scale(item.value + item.reach)
        body += draw_text(left - 10, y + 4.5, item.label, "tick", "end")
        body += draw_line(ends[0], y, ends[1], y, f"reach tone-{item.tone}")
        body += element("circle", cx=x_scale(item.value), cy=y, r=5, class_=f"mark tone-{item.tone}")
    spoken = ", ".join(f"{item.label} {item.value:.3g} ± {item.reach:.3g}" for item in rows)
    return drawing(_WIDTH, bottom + 46, f"{title}: {spoken}", body)


def swatch(colour: int | None, marker: bool = False) -> Svg:
    """The sample of a legend entry: a line, or a scatter plot's marker."""
    if marker and colour is not None:
        return drawing(14, 14, "", _markers([(7, 7)], colour, "sample"), "swatch")
    line_class = "ref" if colour is None else f"line {_style(colour)}"
    return drawing(24, 14, "", draw_line(1, 7, 23, 7, line_class), "swatch")


def time_swatch(time: int | None) -> Svg:
    """The sample of a dumbbell chart's time, or of its reference level."""
    mark = (
        draw_line(7, 1, 7, 13, "chance") if time is None else element("circle", cx=7, cy=7, r=5, class_=f"time t{time}")
    )
    return drawing(14, 14, "", mark, "swatch")


def _bold(line: Line, smoothed: bool) -> list[tuple[float, float]]:
    return thin(smooth(line.points) if smoothed and len(line.points) >= _SMOOTH_FROM else line.points)


def _style(colour: int) -> str:
    return f"c{colour % COLOURS} k{colour // COLOURS % 3}"


def _describe(title: str, lines: Sequence[Line], percent: bool) -> str:
    factor, unit = (100, " %") if percent else (1, "")
    ends = [(line.name, line.points[0], line.points[-1]) for line in lines if line.points]
    parts = [f"{name} from {factor * a[1]:.4g}{unit} to {factor * b[1]:.4g}{unit}" for name, a, b in ends]
    return f"{title}: {'; '.join(parts)}"


def _equal_scales(xs: Sequence[float], ys: Sequence[float], width: float, height: float) -> tuple[Scale, Scale]:
    left, right, top, bottom = 52.0, width - 14.0, 26.0, height - 46.0
    (x_low, x_high), (y_low, y_high) = domain(xs), domain(ys)
    unit = 1.06 * max((x_high - x_low) / (right - left), (y_high - y_low) / (bottom - top))
    x_half, y_half = unit * (right - left) / 2, unit * (bottom - top) / 2
    x_mid, y_mid = (x_low + x_high) / 2, (y_low + y_high) / 2
    x_scale = Scale(x_mid - x_half, x_mid + x_half, left, right)
    return x_scale, Scale(y_mid - y_half, y_mid + y_half, bottom, top)


def _markers(points: Points, colour: int, kind: str = "points") -> str:
    """Points as one path: dots by round line caps, from the eleventh colour on squares, then crosses."""
    shape = ("h0", "h0", "m-2.5-2.5l5 5m0-5l-5 5")[colour // COLOURS % 3]
    path = "".join(f"M{coordinate(x)} {coordinate(y)}{shape}" for x, y in points)
    return element("path", d=path, class_=f"{kind} m{colour // COLOURS % 3} c{colour % COLOURS}")


def _star(points: Sequence[tuple[str, float, float]], colours: Mapping[str, int]) -> str:
    x_mid, y_mid = (sum(values) / len(points) for values in ([p[1] for p in points], [p[2] for p in points]))
    spokes = "".join(f"M{coordinate(x_mid)} {coordinate(y_mid)}L{coordinate(x)} {coordinate(y)}" for _, x, y in points)
    ends = "".join(
        element("circle", cx=x, cy=y, r=3.5, class_=f"end c{colours[group] % COLOURS}") for group, x, y in points
    )
    return element("path", d=spokes, class_="link") + ends


def _names(placed: Sequence[tuple[str, float, float]], colours: Mapping[str, int]) -> str:
    """Each group's name at its middle; none at all where two would overlap."""
    middles = []
    for group in sorted(colours):
        own = [(x, y) for name, x, y in placed if name == group]
        if own:
            middles.append((group, sum(x for x, _ in own) / len(own), sum(y for _, y in own) / len(own)))
    for i, (name, x, y) in enumerate(middles):
        for other, x_other, y_other in middles[:i]:
            if abs(x - x_other) < 5 * (len(name) + len(other)) + 8 and abs(y - y_other) < 20:
                return ""
    return "".join(draw_text(x, y + 5, name, "name", "middle") for name, x, y in middles)


def _grid(labelled: Iterable[tuple[float, str]], y_scale: Scale, left: float, width: float = _WIDTH) -> str:
    parts = []
    for value, label in labelled:
        y = y_scale(value)
        parts.append(draw_line(left, y, width - 14, y, "grid") + draw_text(left - 8, y + 4.5, label, "tick", "end"))
    return "".join(parts)


def _x_axis(
    scale: Scale, label: str, height: float = _HEIGHT, values: Sequence[float] | None = None, suffix: str = ""
) -> str:
    values = ticks(scale.low, scale.high) if values is None else values
    y = height - 46
    body = draw_line(scale.start, y, scale.end, y, "axis")
    for value, text in zip(values, tick_labels(values, suffix), strict=True):
        body += draw_line(scale(value), y, scale(value), y + 5, "axis") + draw_text(
            scale(value), y + 21, text, "tick", "middle"
        )
    return body + (draw_text(scale.end, height - 6, label, "label", "end") if label else "")


def _path(points: Points, x_scale: Scale, y_scale: Scale, class_: str) -> str:
    steps = [f"{coordinate(x_scale(x))} {coordinate(y_scale(y))}" for x, y in points]
    return element("path", d="M" + "L".join(steps), class_=class_)
