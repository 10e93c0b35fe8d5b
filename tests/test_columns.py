"""Cells in columns."""

from __future__ import annotations

from jobs.columns import columns

ROWS = [("a", "bb", ""), ("long", "c", "d")]


def test_columns_are_as_wide_as_their_widest_cell():
    assert list(columns(ROWS)) == ["a     bb", "long  c   d"]
    assert list(columns(ROWS, right=True)) == ["   a  bb", "long   c  d"]
    assert list(columns([])) == []
