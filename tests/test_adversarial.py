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
    near = fit(rows, CalibrationConfig(start="identity"))
    assert distance(near.parameters("xx")[2], true_DD) > 1
    assert accuracy(near, true_DD, STEPS) < 0.2
    found = fit(rows, CalibrationConfig(start="best"))
    told = found.summary()["languages"]["xx"]
    assert (told["rotation"], told["start"]) == ("accepted", "adversarial")
    assert told["starts"]["adversarial"] > told["starts"]["identity"] + 0.1
    assert distance(found.parameters("xx")[2], true_DD) < 0.1
    assert accuracy(found, true_DD, STEPS) > 0.95
