"""Applying, saving and reading a calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler, normalize
from synthetic_spaces import sentences, turn

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.config import build_config
from ccp_ray.errors import DataError, UsageError

SHIFT_SCALE = ("shift", "scale")


@given(seed=st.integers(0, 999), width=st.integers(2, 12), offset=st.floats(-20, 20))
@settings(deadline=None)
def test_steps_match_scikit_learn(seed: int, width: int, offset: float) -> None:
    rows_ND = np.random.default_rng(seed).standard_normal((80, width)) * np.linspace(0.5, 3, width) + offset
    rows_ND = rows_ND.astype(np.float32)
    calibration = fit({"aa": rows_ND}, CalibrationConfig(scale="unit", rotate=False))
    scaler = StandardScaler().fit(rows_ND.astype(np.float64))
    shifted, scaled = rows_ND - scaler.mean_, scaler.transform(rows_ND.astype(np.float64))
    np.testing.assert_allclose(calibration.apply(rows_ND, "aa", ("shift",)), normalize(shifted), atol=5e-4)
    np.testing.assert_allclose(calibration.apply(rows_ND, "aa", SHIFT_SCALE), normalize(scaled), atol=5e-4)
    np.testing.assert_allclose(calibration.apply(rows_ND, "aa", ()), normalize(rows_ND), atol=1e-6)
    mean_D, scale_D, _ = calibration.parameters("aa")
    np.testing.assert_allclose(((rows_ND - mean_D) / scale_D).mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(((rows_ND - mean_D) / scale_D).std(axis=0), 1, atol=1e-5)


def test_apply_returns_unit_float32_and_leaves_its_input() -> None:
    rows_ND = sentences(100, 8, 0).astype(np.float16)
    before = rows_ND.copy()
    calibration = fit({"en": rows_ND, "xx": sentences(100, 8, 1)})
    for lang in ("en", "xx"):
        out_ND = calibration.apply(rows_ND, lang)
        assert out_ND.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(out_ND, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows_ND, before)
    assert not calibration.apply(np.zeros((2, 8)), "en", ()).any()
    assert calibration.apply(np.zeros((0, 8)), "en").shape == (0, 8)


def test_wrong_use_is_explained() -> None:
    calibration = fit({"en": sentences(60, 4, 0), "de": sentences(60, 4, 1)})
    with pytest.raises(DataError, match="no language 'fr'; it knows de, en"):
        calibration.apply(sentences(2, 4, 0), "fr")
    with pytest.raises(DataError, match="do not fit a calibration of 4 dimensions"):
        calibration.apply(sentences(2, 5, 0), "en")
    with pytest.raises(UsageError, match="'turn': unknown calibration step"):
        calibration.apply(sentences(2, 4, 0), "en", ("turn",))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"too few rows to calibrate de \(3\): expected 50"):
        fit({"en": sentences(60, 4, 0), "de": sentences(3, 4, 1)})
    with pytest.raises(DataError, match="no vectors"):
        fit({})
    with pytest.raises(UsageError, match="did you mean 'damping'"):
        build_config(CalibrationConfig, {"dampin": 1.0})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    output = open_output(str(tmp_path / "c"), Request(kind="calibration", config={}))
    assert not isinstance(output, Artifact)
    record = fit({"en": sentences(60, 4, 0)}).save(output.store)
    output.finish([record], {"pivot": "en"})
    assert Calibration.open(str(tmp_path / "c")).languages == ["en"]
    Path(tmp_path, "c/calibration.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"calibration\.safetensors: checksum does not match"):
        Calibration.open(str(tmp_path / "c"))


@given(seed=st.integers(0, 999), rows=st.integers(0, 20), factor=st.floats(0.01, 100))
@settings(deadline=None, max_examples=40)
def test_apply_forgets_length_and_treats_every_row_alone(seed: int, rows: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    steps = {
        "en": (np.zeros(6), np.ones(6), np.eye(6)),
        "xx": (rng.standard_normal(6), rng.uniform(0.5, 2, 6), turn(6, 70, seed)),
    }
    calibration = Calibration("en", {k: tuple(np.float32(v) for v in value) for k, value in steps.items()})
    vectors_ND = rng.standard_normal((rows, 6)).astype(np.float32)
    out_ND = calibration.apply(vectors_ND, "xx")
    np.testing.assert_allclose(np.linalg.norm(out_ND, axis=1), 1, atol=1e-5)
    for row in range(rows):
        np.testing.assert_allclose(calibration.apply(vectors_ND[row : row + 1], "xx")[0], out_ND[row], atol=1e-5)
    np.testing.assert_allclose(
        calibration.apply(vectors_ND * factor, "en"), calibration.apply(vectors_ND, "en"), atol=1e-5
    )
    mean_D, scale_D, rotation_DD = steps["xx"]
    np.testing.assert_allclose(
        normalize((vectors_ND - mean_D) / scale_D) @ rotation_DD if rows else out_ND, out_ND, atol=1e-5
    )
