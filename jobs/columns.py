"""Rows of cells as lines of a terminal, every column as wide as its widest cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def columns(rows: Sequence[Sequence[str]], right: bool = False) -> Iterator[str]:
    """A line a row. right: cells stand at the right of their column, as numbers do."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    set_cell = str.rjust if right else str.ljust
    for row in rows:
        yield "  ".join(map(set_cell, row, widths)).rstrip()
