"""Axes, smoothing and the SVG they end in: laws, and drawings read back as XML."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eval import plots
from eval.plot_scales import Scale, domain, log_ticks, smooth, thin, tick_labels, ticks

MAGNITUDES = st.floats(-8, 8)
SHARES = st.floats(-3, 3)
VALUES = st.floats(-1e6, 1e6)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    """(low, high) of any magnitude, at least a millionth of its size wide."""
    size = 10 ** draw(MAGNITUDES)
    low, high = sorted((draw(SHARES) * size, draw(SHARES) * size))
    assume(high - low > 1e-6 * max(abs(low), abs(high), 1e-8))
    return low, high


@given(ranges(), st.integers(5, 12))
def test_ticks_are_few_even_round_and_inside(limits, most):
    low, high = limits
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most
    slack = 1e-6 * (high - low)
    assert low - slack <= found[0] < found[-1] <= high + slack
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-6)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert any(math.isclose(mantissa, nice, rel_tol=1e-6) for nice in (1, 2, 5))
    assert found[0] - steps[0] < low + slack
    assert found[-1] + steps[0] > high - slack


@given(ranges())
def test_ten_times_the_range_has_ten_times_the_ticks(limits):
    low, high = limits
    assert np.allclose(ticks(10 * low, 10 * high), 10 * np.array(ticks(low, high)), rtol=1e-9, atol=0)


@given(ranges())
def test_tick_labels_are_distinct_and_tell_the_value(limits):
    found = ticks(*limits)
    labels = tick_labels(found)
    assert len(set(labels)) == len(found)
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    for value, label in zip(found, labels, strict=True):
        plain = label.replace("\N{MINUS SIGN}", "-").replace(",", "")
        read = float(plain.rstrip("kMG")) * units.get(plain[-1], 1)
        assert math.isclose(read, value, rel_tol=1e-6, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 0.5, 1], ["0.0", "0.5", "1.0"]),
        ([0, 2000, 4000], ["0", "2,000", "4,000"]),
        ([0, 50_000, 100_000], ["0", "50k", "100k"]),
        ([0, 1_000_000], ["0", "1M"]),
        ([0, 1e-5, 2e-5], ["0", "1e\N{MINUS SIGN}5", "2e\N{MINUS SIGN}5"]),
        ([-1, 0], ["\N{MINUS SIGN}1", "0"]),
    ],
)
def test_tick_labels_by_example(values, labels):
    assert tick_labels(values) == labels


def test_a_suffix_follows_each_label():
    assert tick_labels([0, 20], " %") == ["0 %", "20 %"]


@given(st.floats(-6, 6), st.floats(0.01, 12))
def test_log_ticks_are_few_rising_and_inside(start, decades):
    low, high = 10**start, 10 ** (start + decades)
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 6
    assert found == sorted(set(found))
    assert low * (1 - 1e-6) <= found[0]
    assert found[-1] <= high * (1 + 1e-6)


def test_log_ticks_over_decades_are_powers_of_ten():
    assert log_ticks(0.5, 2000) == [1, 10, 100, 1000]


@given(st.lists(VALUES, min_size=1), st.booleans(), st.sampled_from([0.0, 0.04]))
def test_a_domain_is_never_empty_and_holds_the_values(values, from_zero, margin):
    low, high = domain(values, from_zero, margin)
    assert low < high
    assert low <= min(values)
    assert max(values) <= high
    assert len(ticks(low, high)) >= 2
    if from_zero:
        assert low <= 0 <= high


@given(st.floats(-100, 100), st.floats(-1000, 1000), st.integers(1, 300))
def test_smoothing_leaves_straight_lines_as_they_are(slope, height, count):
    points = [(10.0 * i, height + slope * i) for i in range(count)]
    assert np.allclose(smooth(points), points, rtol=1e-6, atol=1e-6)


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_smoothing_equals_a_least_squares_line_at_each_point(ys):
    points = [(float(i), y) for i, y in enumerate(ys)]
    half = len(ys) // 36 + 2
    for i, (x, y) in enumerate(smooth(points)):
        near = range(max(0, i - half), min(len(ys), i + half + 1))
        values = [ys[j] for j in near]
        line = np.polyfit(np.array(near) - i, values, 1) if len(near) > 1 else values
        assert x == i
        assert y == pytest.approx(line[-1], abs=1e-6 * max(1.0, *map(abs, ys)))


def test_smoothing_takes_most_of_the_noise_away():
    rng = np.random.default_rng(0)
    points = [(float(i), float(y)) for i, y in enumerate(rng.normal(size=400))]
    assert np.std([y for _, y in smooth(points)]) < 0.35


@given(st.lists(VALUES, min_size=1, max_size=300), st.integers(2, 50))
def test_thinning_keeps_ends_extremes_and_order(ys, most):
    points = [(float(i), y) for i, y in enumerate(ys)]
    kept = thin(points, most)
    assert len(kept) <= max(most, 2)
    assert kept == sorted(set(kept) & set(points))
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    if most >= 4:
        assert min(y for _, y in kept) == min(ys)
        assert max(y for _, y in kept) == max(ys)


@given(ranges(), st.floats(0, 1))
def test_a_scale_maps_its_ends_and_what_lies_between(limits, share):
    low, high = limits
    scale = Scale(low, high, 100, 20)
    assert scale(low) == pytest.approx(100)
    assert scale(low + share * (high - low)) == pytest.approx(100 - 80 * share, abs=1e-4)


def test_a_logarithmic_scale_has_equal_steps_for_equal_ratios():
    scale = Scale(1, 100, 0, 10, log=True)
    assert [scale(value) for value in (1, 10, 100)] == pytest.approx([0, 5, 10])


def read(svg: plots.Svg) -> ET.Element:
    return ET.fromstring(svg)


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


def path_of(element: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, step.split())) for step in element.get("d", "")[1:].split("L")]  # type: ignore[misc]


def test_a_line_chart_draws_the_points_where_its_axes_say():
    points = [(0.0, 0.0), (50.0, 1.0), (100.0, 4.0)]
    root = read(plots.line_chart("Loss", [plots.Line("a", points)], "step", "nats", from_zero=True))
    (line,) = of_class(root, "line")
    (x0, y0), (x1, y1), (x2, y2) = path_of(line)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx((y0 - y2) / 4, abs=0.2)
    texts = {text.text: float(text.get("y", "")) for text in of_class(root, "tick")}
    assert texts["4"] - 4.5 == pytest.approx(y2, abs=0.2)
    assert root.get("aria-label") == "Loss: a from 0 to 4"


def test_noise_is_drawn_faint_under_a_smooth_line():
    noisy = [(float(i), float(i % 2)) for i in range(100)]
    root = read(plots.line_chart("t", [plots.Line("a", noisy)], "", "", smoothed=True))
    (raw,), (bold,) = of_class(root, "raw"), of_class(root, "line")
    height = [np.ptp([y for _, y in path_of(element)]) for element in (raw, bold)]
    assert height[1] < 0.5 * height[0]


def test_a_reference_level_is_dashed_and_has_no_colour():
    lines = [plots.Line("a", [(0, 1), (1, 2)]), plots.Line("chance", [(0, 3), (1, 3)], None)]
    root = read(plots.line_chart("t", lines, "", ""))
    assert len(of_class(root, "ref")) == 1
    assert len(of_class(root, "line")) == 1


@pytest.mark.parametrize("points", [[(3.0, 2.0)], [(0.0, 5.0), (1.0, 5.0)], [(0.0, 0.0), (1.0, 0.0)]])
def test_one_point_or_a_constant_is_drawn_inside_the_chart(points):
    root = read(plots.line_chart("t", [plots.Line("a", points)], "step", "y", percent=True))
    for x, y in path_of(of_class(root, "line")[0]):
        assert 0 <= x <= 520
        assert 0 <= y <= 300


def test_a_logarithmic_chart_spaces_decades_evenly():
    root = read(plots.line_chart("t", [plots.Line("a", [(0, 1), (1, 10), (2, 100)])], "", "", log_y=True))
    ys = [y for _, y in path_of(of_class(root, "line")[0])]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)


def test_a_scatter_plot_draws_every_point_once_in_equal_units():
    rng = np.random.default_rng(0)
    points = [("a" if i % 2 else "b", float(x), float(y)) for i, (x, y) in enumerate(rng.normal(size=(101, 2)))]
    root = read(plots.scatter("t", points, {"a": 0, "b": 1}, []))
    drawn = [step for path in of_class(root, "points") for step in path.get("d", "").split("M")[1:]]
    assert len(drawn) == 101
    found = sorted(tuple(map(float, step.removesuffix("h0").split())) for step in drawn)
    wanted = sorted((x, -y) for _, x, y in points)
    ratio = [np.ptp([p[k] for p in found]) / np.ptp([p[k] for p in wanted]) for k in (0, 1)]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.01)


def test_a_scatter_plot_names_groups_only_where_all_names_fit():
    colours = {"a": 0, "b": 1}
    apart = [("a", 0.0, 0.0), ("b", 10.0, 5.0)]
    assert [text.text for text in of_class(read(plots.scatter("t", apart, colours, [])), "name")] == ["a", "b"]
    together = [("a", 0.0, 0.0), ("a", 10.0, 5.0), ("b", 0.0, 0.0), ("b", 10.0, 5.0)]
    assert of_class(read(plots.scatter("t", together, colours, [])), "name") == []


def test_links_join_their_points_through_the_middle():
    points = [("a", 0.0, 0.0), ("b", 10.0, 0.0), ("a", 4.0, 4.0)]
    root = read(plots.scatter("t", points, {"a": 0, "b": 1}, [[0, 1]]))
    (link,) = of_class(root, "link")
    spokes = [step.split("L") for step in link.get("d", "").split("M")[1:]]
    assert len(spokes) == 2
    ends = [float(spoke[1].split()[0]) for spoke in spokes]
    assert float(spokes[0][0].split()[0]) == pytest.approx(sum(ends) / 2, abs=0.1)


def test_bars_are_as_long_as_their_values():
    root = read(plots.bar_chart("t", [("one", 0.1), ("two", 0.4)], "two"))
    bars = of_class(root, "bar")
    assert float(bars[1].get("width", "")) == pytest.approx(4 * float(bars[0].get("width", "")), rel=0.01)
    assert ["best" in bar.get("class", "") for bar in bars] == [False, True]
    assert [text.text for text in of_class(root, "value")] == ["10.0 %", "40.0 %"]


def test_a_dumbbell_leaves_out_what_is_missing():
    rows = [plots.Dumbbell("en", (0.1, 0.3, None), 0.02), plots.Dumbbell("fr", (None, None, None))]
    root = read(plots.dumbbell_chart("t", rows, ["before", "after", "calibrated"]))
    assert len(of_class(root, "time")) == 2
    assert len(of_class(root, "bridge")) == 1
    assert len(of_class(root, "chance")) == 1


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 20)), min_size=1, max_size=8))
def test_an_interval_reaches_the_zero_line_exactly_if_it_holds_zero(values):
    rows = [plots.Interval(f"row {i}", value, reach, "good") for i, (value, reach) in enumerate(values)]
    root = read(plots.interval_chart("t", rows, "points"))
    zero = float(of_class(root, "zero")[0].get("d").removeprefix("M").split()[0])
    marks, whiskers = of_class(root, "mark"), of_class(root, "reach")
    assert len(marks) == len(whiskers) == len(rows)
    for item, mark, whisker in zip(rows, marks, whiskers, strict=True):
        left, right = (float(part.split()[0]) for part in whisker.get("d").removeprefix("M").split("L"))
        assert left - 0.2 <= float(mark.get("cx")) <= right + 0.2
        if item.value - item.reach > 1 or item.value + item.reach < -1:  # a tenth of a pixel decides nothing
            assert not left < zero < right
        if item.value - item.reach < -1 and item.value + item.reach > 1:
            assert left < zero < right


def test_the_eleventh_colour_is_the_first_with_another_shape():
    assert plots.swatch(0) != plots.swatch(10) != plots.swatch(20)
    assert plots.swatch(0, marker=True) != plots.swatch(10, marker=True) != plots.swatch(20, marker=True)


def test_text_cannot_become_markup():
    evil = '"><script>alert(1)</script>&'
    charts = [
        plots.line_chart(evil, [plots.Line(evil, [(0, 1), (1, 2)])], evil, evil),
        plots.scatter(evil, [(evil, 0.0, 0.0), ("b", 9.0, 9.0)], {evil: 0, "b": 1}, [[0, 1]]),
        plots.bar_chart(evil, [(evil, 0.2)], evil),
        plots.dumbbell_chart(evil, [plots.Dumbbell(evil, (0.1,))], [evil]),
        plots.interval_chart(evil, [plots.Interval(evil, 0.1, 0.2)], evil),
    ]
    for chart in charts:
        root = read(chart)  # well-formed
        assert "script" not in {element.tag for element in root.iter()}
        assert evil in "".join(root.itertext()) + root.get("aria-label", "")
