"""Inline SVG made by hand: elements as strings, numbers with one decimal, all text escaped here.

Colours and strokes are classes that `page_style.html.j2` fills in, so that a chart follows dark and light.
"""

from __future__ import annotations

import html


class Svg(str):
    """Markup that is already escaped; templates insert it as it is."""

    def __html__(self) -> str:
        return self


def drawing(width: float, height: float, label: str, body: str, class_: str = "chart") -> Svg:
    """A whole drawing; `label` is what a screen reader says, empty for decoration."""
    spoken: dict[str, str] = {"role": "img", "aria-label": label} if label else {"aria-hidden": "true"}
    return Svg(element("svg", body, viewBox=f"0 0 {coordinate(width)} {coordinate(height)}", class_=class_, **spoken))


def draw_line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=class_)


def draw_text(x: float, y: float, text: str, class_: str, anchor: str = "start") -> str:
    """Text; `anchor` is start, middle or end."""
    return element("text", html.escape(text), x=x, y=y, class_=class_, text_anchor=anchor)


def element(name: str, body: str = "", **attributes: str | float) -> str:
    """An element; attribute names as in SVG with _ for -, `class_` for class. `body` is markup."""
    parts = [name]
    for key, value in attributes.items():
        shown = html.escape(value) if isinstance(value, str) else coordinate(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    return f"<{' '.join(parts)}>{body}</{name}>" if body else f"<{' '.join(parts)}/>"


def coordinate(value: float) -> str:
    """A coordinate, with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")
