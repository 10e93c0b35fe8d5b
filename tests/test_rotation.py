"""CSLS, Procrustes and refinement against naive oracles; starts compete."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from synthetic_spaces import distance, sentences, turn, unpaired

from ccp_ray.calibration import unit
from ccp_ray.rotation import Rotation, Sides, improves, learn_rotation, mutual_neighbours, procrustes


@given(seed=st.integers(0, 99), pairs=st.integers(0, 12), damping=st.sampled_from([1e-3, 1.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_procrustes_is_orthogonal_whatever_the_pairs(seed: int, pairs: int, damping: float) -> None:
    rng = np.random.default_rng(seed)
    source_PD, target_PD = (unit(rng.standard_normal((pairs, 9)).astype(np.float32)) for _ in range(2))
    found_DD = procrustes(source_PD, target_PD, turn(9, 40, seed).astype(np.float32), damping)
    np.testing.assert_allclose(found_DD @ found_DD.T, np.eye(9), atol=1e-5)


def test_procrustes_keeps_an_exact_map_and_the_directions_without_evidence() -> None:
    exact_DD = turn(9, 70).astype(np.float32)
    source_PD = unit(sentences(50, 9, 0).astype(np.float32))
    np.testing.assert_allclose(procrustes(source_PD, source_PD @ exact_DD, exact_DD, 5.0), exact_DD, atol=1e-5)
    np.testing.assert_allclose(
        procrustes(source_PD, source_PD @ exact_DD, np.eye(9, dtype=np.float32), 1e-6), exact_DD, atol=1e-4
    )
    few_PD = np.zeros((3, 9), dtype=np.float32)
    few_PD[:, :3] = np.eye(3)
    found_DD = procrustes(few_PD, few_PD[[1, 2, 0]], np.eye(9, dtype=np.float32), 1e-3)
    np.testing.assert_allclose(found_DD[3:, 3:], np.eye(6), atol=1e-5)


@given(seed=st.integers(0, 50), rows=st.integers(12, 40), others=st.integers(12, 40))
@settings(deadline=None, max_examples=25)
def test_mutual_neighbours_match_a_naive_oracle(seed: int, rows: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    source_ND, target_MD = (unit(rng.standard_normal((n, 4)).astype(np.float32)) for n in (rows, others))
    cosine_NM = source_ND @ target_MD.T
    csls_NM = 2 * cosine_NM - np.sort(cosine_NM, 1)[:, -10:].mean(1)[:, None] - np.sort(cosine_NM, 0)[-10:].mean(0)
    pairs = [(i, j) for i, j in enumerate(csls_NM.argmax(1)) if csls_NM.argmax(0)[j] == i]
    found = mutual_neighbours(source_ND, target_MD, 10)
    assert list(zip(found.source_P.tolist(), found.target_P.tolist(), strict=True)) == pairs
    forward = cosine_NM[np.arange(rows), csls_NM.argmax(1)].mean()
    backward = cosine_NM[csls_NM.argmax(0), np.arange(others)].mean()
    assert found.criterion == pytest.approx((forward + backward) / 2, abs=1e-5)


@given(seed=st.integers(0, 99), pairs=st.integers(12, 60))
@settings(deadline=None, max_examples=25)
def test_procrustes_without_damping_is_scipys(seed: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    source_PD = unit(rng.standard_normal((pairs, 9)).astype(np.float32))
    target_PD = unit((source_PD @ turn(9, 80, seed) + 0.1 * rng.standard_normal((pairs, 9))).astype(np.float32))
    found_DD = procrustes(source_PD, target_PD, np.eye(9, dtype=np.float32), 1e-9)
    expected_DD, _ = orthogonal_procrustes(source_PD.astype(np.float64), target_PD.astype(np.float64))
    np.testing.assert_allclose(found_DD, expected_DD, atol=1e-5)


def learn(fitted: Sides, judged: Sides, starts: dict[str, np.ndarray], minimum_gain: float = 0.1) -> Rotation:
    before = mutual_neighbours(*judged, 10).criterion
    return learn_rotation(
        fitted, judged, starts, before=before, iterations=10, neighbours=10, damping=1.0, minimum_gain=minimum_gain
    )


def test_the_better_start_wins_whatever_their_order() -> None:
    true_DD = turn(16, 150).astype(np.float32)
    fitted, judged = unpaired(800, true_DD)
    near_DD = (true_DD @ turn(16, 10, 1)).astype(np.float32)
    far_DD = np.eye(16, dtype=np.float32)
    for starts in ({"identity": far_DD, "near": near_DD}, {"near": near_DD, "identity": far_DD}):
        found = learn(fitted, judged, starts)
        assert (found.start, found.accepted) == ("near", True)
        assert distance(found.matrix_DD, true_DD) < 0.1


def test_a_bad_start_is_rejected_and_the_identity_stays() -> None:
    fitted, judged = unpaired(800, np.eye(16))
    found = learn(fitted, judged, {"bad": turn(16, 150).astype(np.float32)})
    assert not found.accepted
    np.testing.assert_array_equal(found.matrix_DD, np.eye(16))
    assert found.after < found.before == mutual_neighbours(*judged, 10).criterion
    assert found.tried == {"bad": found.after}


@given(before=st.floats(-1, 1, width=32), after=st.floats(-1, 1, width=32), least=st.floats(0, 0.99))
def test_what_improves_is_never_worse(before: float, after: float, least: float) -> None:
    if improves(before, after, least):
        assert after > before
        assert (1 - after) < (1 - least) * (1 - before) + 1e-9
    assert not improves(before, before, least)
