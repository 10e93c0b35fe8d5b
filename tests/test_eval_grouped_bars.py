"""Grouped bars: heights in proportion, places kept, bands of one scale."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from eval.grouped_bars import Group, grouped_bars, is_wide


def rects(svg: str) -> list[ET.Element]:
    return [element for element in ET.fromstring(svg).iter() if element.tag == "rect"]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), min_size=1, max_size=40))
def test_heights_are_in_proportion_over_all_bands(values):
    groups = [Group(f"l{i}", pair) for i, pair in enumerate(values)]
    bars = rects(grouped_bars("t", groups, ["a", "b"]))
    flat = [value for pair in values for value in pair]
    assert len(bars) == len(flat)
    scale = [float(bar.get("height", "")) / value for bar, value in zip(bars, flat, strict=True)]
    assert max(scale) - min(scale) < 0.06 / 0.05 * 2  # coordinates have one decimal


def test_a_missing_value_leaves_its_place_empty():
    both = rects(grouped_bars("t", [Group("x", [0.2, 0.4])], ["a", "b"]))
    second = rects(grouped_bars("t", [Group("x", [None, 0.4])], ["a", "b"]))
    assert len(second) == 1
    assert second[0].attrib == both[1].attrib
    assert rects(grouped_bars("t", [Group("x", [None, None])], ["a", "b"])) == []


def test_every_group_is_named_once_and_text_is_escaped():
    groups = [Group(f"l{i}", [0.5], 0.6) for i in range(112)]
    assert [text for text in texts(grouped_bars("t", groups, ["a"])) if text.startswith("l")] == [
        f"l{i}" for i in range(112)
    ]
    assert "<&>" in texts(grouped_bars("<t>", [Group("<&>", [0.5])], ["a&b"]))


def test_a_reference_above_all_bars_stays_in_the_chart():
    svg = ET.fromstring(grouped_bars("t", [Group("x", [0.1], 0.9)], ["a"]))
    marks = [element for element in svg.iter("path") if element.get("class") == "chance"]
    assert len(marks) == 1
    y = float(marks[0].get("d", "").split("L")[0].split(" ")[1])
    assert 0 < y < 40


def test_many_groups_take_the_whole_width():
    names = ["a", "b"]
    assert not is_wide([Group(f"l{i}", [0.5, 0.5]) for i in range(11)], names)
    assert is_wide([Group(f"l{i}", [0.5, 0.5]) for i in range(36)], names)
