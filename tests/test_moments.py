"""Moments: any split, and taking away what was added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.moments import Moments, merged


@given(
    rows=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    centre=st.sampled_from([0.0, 3.0, 1e4]),
    seed=st.integers(0, 99),
)
def test_moments_do_not_depend_on_how_rows_are_split(rows: int, cuts: list[int], centre: float, seed: int) -> None:
    vectors_ND = (centre + np.random.default_rng(seed).standard_normal((rows, 5))).astype(np.float32)
    parts = [part for part in np.split(vectors_ND, sorted(min(cut, rows) for cut in cuts)) if len(part)]
    found = merged(Moments.from_json(Moments.of(part).to_json()) for part in parts)
    assert found.rows == rows
    np.testing.assert_allclose(found.mean_D, vectors_ND.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12)
    exact_D = vectors_ND.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(found.deviation_D, exact_D, rtol=1e-9, atol=1e-9)


@given(rows=st.integers(2, 60), taken=st.integers(1, 59), centre=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 99))
def test_without_undoes_merge(rows: int, taken: int, centre: float, seed: int) -> None:
    vectors_ND = centre + np.random.default_rng(seed).standard_normal((rows, 5))
    away_nD, left_mD = vectors_ND[: min(taken, rows - 1)], vectors_ND[min(taken, rows - 1) :]
    found = Moments.of(vectors_ND).without(Moments.of(away_nD))
    assert found.rows == len(left_mD)
    np.testing.assert_allclose(found.mean_D, left_mD.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(found.deviation_D, left_mD.std(axis=0), atol=1e-6)


@given(first=st.integers(1, 30), second=st.integers(1, 30), seed=st.integers(0, 99))
def test_merge_commutes(first: int, second: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (Moments.of(rng.standard_normal((n, 4))) for n in (first, second))
    for found, expected in zip(one.merge(other), other.merge(one), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_nothing_left_is_an_error() -> None:
    moments = Moments.of(np.eye(3))
    with pytest.raises(ValueError, match="3 of 3 rows taken away"):
        moments.without(moments)
    with pytest.raises(ValueError, match="no moments to merge"):
        merged([])
