"""The adversarial start: recovers a map that the identity's neighbours do not lead to, and says when it did not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_spaces import distance, mirrored, sentences, skewed, turn, unpaired

from ccp_ray.adversarial import adversarial_start, first_map, towards_orthogonal
from ccp_ray.calibration import STEPS, Calibration
from ccp_ray.calibration_config import AdversarialConfig, CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.errors import DataError

SHORT = AdversarialConfig(restarts=1, epochs=2, steps=20)


def accuracy(calibration: Calibration, map_DD: np.ndarray, steps: tuple[str, ...]) -> float:
    """Top-1 accuracy among 500 true translations, of which the fit saw none."""
    test_ND = skewed(500, len(map_DD), 9)
    noisy_ND = test_ND + 0.02 * np.random.default_rng(10).standard_normal(test_ND.shape)
    english_ND = calibration.apply(test_ND, "en", steps)
    other_ND = calibration.apply(noisy_ND @ map_DD.T, "xx", steps)
    return float(np.mean((other_ND @ english_ND.T).argmax(axis=1) == np.arange(500)))


@pytest.mark.parametrize(("width", "seed"), [(16, 0), (16, 1), (32, 0)])
def test_recovers_a_large_map_that_the_identity_does_not_lead_to(width: int, seed: int) -> None:
    """Two samples of one distribution, no row in both, one of them mirrored and turned by a random map."""
    true_DD = mirrored(width, seed)
    rows = {"en": skewed(4000, width, 1), "xx": skewed(4000, width, 2) @ true_DD.T}
    calibration = fit(rows, CalibrationConfig(start="best"))
    told = calibration.summary()["languages"]["xx"]
    assert (told["rotation"], told["start"]) == ("accepted", "adversarial")
    assert told["starts"]["adversarial"] > told["starts"]["identity"] + 0.1
    assert distance(calibration.parameters("xx")[2], true_DD) < 0.2
    assert accuracy(calibration, true_DD, STEPS) > 0.95
    assert accuracy(calibration, true_DD, ("shift",)) < 0.2


def test_a_search_that_found_nothing_leaves_the_identity_and_says_so() -> None:
    rows = {"en": sentences(400, 8, 1), "xx": sentences(400, 8, 2)}
    poor = AdversarialConfig(restarts=1, epochs=1, steps=1, lr=100.0)
    calibration = fit(rows, CalibrationConfig(start="adversarial", adversarial=poor))
    told = calibration.summary()["languages"]["xx"]
    assert (told["rotation"], list(told["starts"])) == ("rejected", ["adversarial"])
    assert told["criterion_result"] >= told["criterion_shift"]
    np.testing.assert_array_equal(calibration.parameters("xx")[2], np.eye(8))


def test_every_run_is_counted_and_the_first_that_is_good_enough_is_the_last() -> None:
    fitted, judged = unpaired(400, mirrored(8, 0))
    stubborn = SHORT.model_copy(update={"restarts": 3, "enough": 1.0, "steps": 1, "epochs": 1})
    assert adversarial_start(fitted, judged, stubborn, 10, 0).runs == 3
    easy = stubborn.model_copy(update={"enough": 1e-9})
    assert adversarial_start(fitted, judged, easy, 10, 0).runs < 3


def test_a_seed_decides_and_torchs_own_state_is_left_alone() -> None:
    fitted, judged = unpaired(400, mirrored(8, 0))
    before = torch.get_rng_state()
    one, same, other = (adversarial_start(fitted, judged, SHORT, 10, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one.matrix_DD, same.matrix_DD)
    assert np.abs(one.matrix_DD - other.matrix_DD).max() > 1e-3
    np.testing.assert_allclose(one.matrix_DD @ one.matrix_DD.T, np.eye(8), atol=1e-5)


def test_divergence_in_every_run_is_an_error_that_names_the_remedy() -> None:
    fitted, judged = unpaired(400, mirrored(8, 0))
    wild = SHORT.model_copy(update={"lr": 1e20, "restarts": 2})
    with pytest.raises(DataError, match=r"diverged in all 2 runs; lower adversarial\.discriminator_lr"):
        adversarial_start(fitted, judged, wild, 10, 0)


@given(values=st.lists(st.floats(0.05, 3.0), min_size=5, max_size=5), beta=st.floats(0.001, 0.1))
@settings(deadline=None, max_examples=40)
def test_the_pull_moves_singular_values_alone_and_towards_one(values: list[float], beta: float) -> None:
    left_DD, right_DD = (turn(5, 100, seed) for seed in (1, 2))
    values_D = np.array(values)
    found_DD = towards_orthogonal(torch.from_numpy(left_DD * values_D @ right_DD), beta).numpy()
    expected_D = values_D * (1 + beta - beta * values_D**2)
    np.testing.assert_allclose(found_DD, left_DD * expected_D @ right_DD, atol=1e-9)
    assert (np.abs(expected_D - 1) <= np.abs(values_D - 1) + 1e-12).all()


@given(restart=st.integers(0, 9), seed=st.integers(0, 99), width=st.integers(2, 9))
@settings(deadline=None, max_examples=40)
def test_first_maps_are_orthogonal_and_of_both_determinants(restart: int, seed: int, width: int) -> None:
    map_DD = first_map(width, restart, seed)
    np.testing.assert_allclose(map_DD @ map_DD.T, np.eye(width), atol=1e-5)
    assert np.linalg.det(map_DD) == pytest.approx(-1 if restart % 2 else 1, abs=1e-4)
