"""What every page of ours is made of: one template environment, and charts with caption and legend.

Pages share `page_style.html.j2` (light and dark, print) and the macros of `page_parts.html.j2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2

from eval import plots
from eval.report_model import Curve
from eval.svg import Svg


class Key(NamedTuple):
    """A legend entry."""

    name: str
    sample: Svg


class Figure(NamedTuple):
    """A chart with its caption and, unless the section has one for all, its legend."""

    title: str
    note: str
    chart: Svg
    legend: list[Key]


def render_page(template: str, view: Mapping[str, Any]) -> str:
    """A template of this folder filled in; everything but markup of our own is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eval", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render({"colours": range(plots.COLOURS)} | dict(view))


def curve_figure(curve: Curve, palette: Mapping[str, int] | None) -> Figure:
    """A curve drawn in a section's colours, which then has the legend, or (None) in its own with a legend."""
    own = [series.name for series in curve.series if not series.reference]
    colours = palette if palette is not None else {name: i for i, name in enumerate(own)}
    lines = [plots.Line(s.name, s.points, None if s.reference else colours[s.name]) for s in curve.series]
    chart = plots.line_chart(
        curve.title,
        lines,
        curve.x_label,
        curve.y_label,
        log_y=curve.log_y,
        percent=curve.percent,
        from_zero=curve.from_zero,
        smoothed=curve.smooth,
    )
    legend = [Key(line.name, plots.swatch(line.colour)) for line in lines]
    return Figure(curve.title, curve.note, chart, [] if palette is not None or len(lines) == 1 else legend)
