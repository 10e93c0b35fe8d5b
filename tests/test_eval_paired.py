"""Paired differences against SciPy, and the laws of the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.paired import Difference, overall, paired_difference, spread, two_sided_p, verdict

values = st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 6))
pair_lists = st.lists(st.tuples(values, values), min_size=2, max_size=12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 40])
@pytest.mark.parametrize("t", [0.0, 0.3, -1.0, 2.0, 4.303, 25.0])
def test_students_p_is_scipys(t, freedom):
    assert two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-12)


@pytest.mark.parametrize(("seeds", "chance"), [(3, 18), (5, 12), (10, 8)])
def test_how_often_two_standard_errors_are_passed_by_chance_is_as_the_module_says(seeds, chance):
    rng = np.random.default_rng(0)
    named = [verdict(paired_difference([(x, 0.0) for x in row])) for row in rng.normal(size=(4000, seeds)).tolist()]
    assert 100 * np.mean([found != "not shown" for found in named]) == pytest.approx(chance, abs=2)
    assert round(100 * two_sided_p(2.0, seeds - 1)) == chance


@given(pair_lists)
def test_the_difference_is_scipys_paired_test(pairs):
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    found = paired_difference(pairs)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(left - right), abs=1e-12)
    assert found.error == pytest.approx(stats.sem(left - right), abs=1e-12)
    if found.error > 1e-9:
        assert found.p == pytest.approx(stats.ttest_rel(left, right).pvalue, abs=1e-6)


@given(pair_lists)
def test_the_verdict_turns_with_the_sides(pairs):
    turned = {"confirmed": "contradicted", "contradicted": "confirmed", "not shown": "not shown"}
    swapped = paired_difference([(right, left) for left, right in pairs])
    assert verdict(swapped) == turned[verdict(paired_difference(pairs))]


@given(pair_lists, values)
def test_what_both_sides_share_does_not_count(pairs, gift):
    before = paired_difference(pairs)
    after = paired_difference([(left + gift, right + gift) for left, right in pairs])
    assert after.mean == pytest.approx(before.mean, abs=1e-9)
    assert after.error == pytest.approx(before.error, abs=1e-9)


@pytest.mark.parametrize(
    ("mean", "error", "word"),
    [
        (0.021, 0.01, "confirmed"),
        (0.02, 0.01, "not shown"),
        (-0.021, 0.01, "contradicted"),
        (0.1, 0.0, "confirmed"),
        (0.0, 0.0, "not shown"),
    ],
)
def test_two_standard_errors_are_the_limit(mean, error, word):
    assert verdict(Difference(mean, error, 0.5, 3)) == word


def test_one_seed_is_no_measurement():
    assert paired_difference([(0.9, 0.1)]) is None
    assert verdict(None) == "not measured"
    assert spread([0.5]) == (0.5, None, 1)


@given(st.lists(values, min_size=2, max_size=9))
def test_the_deviation_is_numpys(sample):
    found = spread(sample)
    assert found.mean == pytest.approx(np.mean(sample), abs=1e-12)
    assert found.deviation == pytest.approx(np.std(sample, ddof=1), abs=1e-9)


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["not shown", "confirmed"], "confirmed"),
        (["contradicted", "not measured"], "contradicted"),
        (["contradicted", "confirmed"], "mixed"),
        (["not shown", "not measured"], "not shown"),
        (["not measured"], "not measured"),
        ([], "not measured"),
    ],
)
def test_several_judgements_make_one(verdicts, word):
    assert overall(verdicts) == word
