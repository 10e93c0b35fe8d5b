"""Calibration's laws: centred, scaled, orthogonal; and a rotation that helps or stays away."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from sklearn.preprocessing import StandardScaler, normalize

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.calibration import STEPS, Calibration, CalibrationConfig, fit, sample_rows, unit
from ccp_ray.calibration_job import calibrate
from ccp_ray.config import build_config
from ccp_ray.errors import DataError, UsageError
from ccp_ray.moments import Moments, merged
from ccp_ray.rotation import mutual_neighbours, procrustes

SHIFT_SCALE = ("shift", "scale")


def turn(width: int, degrees: float, seed: int = 0) -> np.ndarray:
    """A rotation whose largest plane turns by `degrees`."""
    half = np.random.default_rng(seed).standard_normal((width, width))
    skew = half - half.T
    return np.asarray(expm(skew * np.deg2rad(degrees) / np.abs(np.linalg.eigvals(skew)).max()))


def sentences(rows: int, width: int, seed: int) -> np.ndarray:
    """Rows of one distribution: forty topics, the first dimensions wider than the last."""
    topics_KD = np.random.default_rng(99).standard_normal((40, width)) * np.linspace(1.6, 0.7, width)
    rng = np.random.default_rng(seed)
    return topics_KD[rng.integers(40, size=rows)] + 0.35 * rng.standard_normal((rows, width))


def distance(first_DD: np.ndarray, second_DD: np.ndarray) -> float:
    return float(np.linalg.norm(first_DD - second_DD) / np.sqrt(len(first_DD)))


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


@given(seed=st.integers(0, 999), width=st.integers(2, 12), offset=st.floats(-20, 20))
@settings(deadline=None)
def test_steps_match_scikit_learn(seed: int, width: int, offset: float) -> None:
    rows_ND = np.random.default_rng(seed).standard_normal((80, width)) * np.linspace(0.5, 3, width) + offset
    rows_ND = rows_ND.astype(np.float32)
    calibration = fit({"aa": rows_ND}, CalibrationConfig(rotate=False))
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


def test_a_dead_dimension_does_not_become_noise() -> None:
    rows_ND = sentences(200, 6, 0)
    rows_ND[:, 4] = 7 + 1e-9 * np.arange(200)
    calibration = fit({"aa": rows_ND}, CalibrationConfig(rotate=False))
    assert np.abs(calibration.apply(rows_ND, "aa")[:, 4]).max() < 1e-3


def test_equal_vectors_are_a_collapsed_encoder() -> None:
    with pytest.raises(DataError, match="all 60 vectors of 'xx' are equal"):
        fit({"en": sentences(60, 4, 0), "xx": np.full((60, 4), 0.3)}, CalibrationConfig(rotate=False))


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


@pytest.mark.parametrize(("degrees", "width"), [(30, 8), (60, 16), (30, 64)])
def test_recovers_a_rotation_from_shuffled_translations(degrees: float, width: int) -> None:
    true_DD = turn(width, degrees)
    english = sentences(2000, width, 1)
    other = english[np.random.default_rng(2).permutation(2000)] @ true_DD.T
    calibration = fit({"en": english, "xx": other})
    found_DD = calibration.parameters("xx")[2]
    assert calibration.rotations["xx"].accepted
    assert distance(found_DD, true_DD) < distance(np.eye(width), true_DD) / 2
    np.testing.assert_allclose(found_DD @ found_DD.T, np.eye(width), atol=1e-5)


@pytest.mark.parametrize(("degrees", "width"), [(30, 8), (60, 8), (30, 16), (60, 16), (30, 64), (60, 64)])
def test_comes_nearer_to_a_rotation_without_any_translation(degrees: float, width: int) -> None:
    true_DD = turn(width, degrees)
    calibration = fit({"en": sentences(2000, width, 1), "xx": sentences(2000, width, 2) @ true_DD.T})
    assert calibration.rotations["xx"].accepted
    assert distance(calibration.parameters("xx")[2], true_DD) < 0.9 * distance(np.eye(width), true_DD)


@pytest.mark.parametrize("width", [4, 16, 64])
@pytest.mark.parametrize("degrees", [0, 2, 5])
def test_nearly_aligned_spaces_without_translations_are_not_harmed(width: int, degrees: float) -> None:
    """Retrieval of true translations, which the fit never sees, is no worse than after shift and scale."""
    true_DD = turn(width, degrees)
    calibration = fit({"en": sentences(2000, width, 1), "xx": sentences(2000, width, 2) @ true_DD.T})
    test_ND = sentences(500, width, 3)

    def accuracy(steps: tuple[str, ...]) -> float:
        noisy_ND = test_ND + 0.1 * np.random.default_rng(4).standard_normal(test_ND.shape)
        english_ND = calibration.apply(test_ND, "en", steps)
        return float(
            np.mean((calibration.apply(noisy_ND @ true_DD.T, "xx", steps) @ english_ND.T).argmax(1) == np.arange(500))
        )

    assert accuracy(STEPS) >= accuracy(SHIFT_SCALE) - 0.01


@given(seed=st.integers(0, 20), width=st.sampled_from([3, 24]))
@settings(deadline=None, max_examples=8)
def test_unrelated_spaces_keep_the_identity_or_gain_by_the_criterion(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows = {"en": rng.standard_normal((300, width)), "xx": rng.laplace(size=(300, width)) * np.linspace(1, 5, width)}
    calibration = fit(rows)
    learned = calibration.rotations["xx"]
    gain = (learned.after - learned.before) / (1 - learned.before)
    if learned.accepted:
        assert gain > CalibrationConfig().minimum_gain
    else:
        np.testing.assert_array_equal(calibration.parameters("xx")[2], np.eye(width))
        np.testing.assert_array_equal(
            calibration.apply(rows["xx"], "xx"), unit(calibration.apply(rows["xx"], "xx", SHIFT_SCALE))
        )
    assert learned.after >= learned.before


def test_summary_tells_what_became_of_each_rotation() -> None:
    true_DD = turn(8, 45)
    rows = {"en": sentences(1000, 8, 1), "de": sentences(1000, 8, 2), "xx": sentences(1000, 8, 3) @ true_DD.T}
    languages = fit(rows).summary()["languages"]
    assert {lang: found["rotation"] for lang, found in languages.items()} == {
        "en": "pivot",
        "de": "rejected",
        "xx": "accepted",
    }
    assert languages["xx"]["criterion_after"] > languages["xx"]["criterion_before"]
    off = fit(rows, CalibrationConfig(rotate=False)).summary()["languages"]
    assert {found["rotation"] for found in off.values()} == {"pivot", "off"}


def test_pivot_is_english_else_the_first_else_what_is_asked() -> None:
    rows = {lang: sentences(60, 4, i) for i, lang in enumerate(["qab", "qaa", "en"])}
    assert fit(rows).pivot == "en"
    assert fit({lang: rows[lang] for lang in ("qab", "qaa")}).pivot == "qaa"
    assert fit(rows, CalibrationConfig(pivot="qab")).pivot == "qab"
    with pytest.raises(UsageError, match="pivot 'fr': no such language; there is en, qaa, qab"):
        fit(rows, CalibrationConfig(pivot="fr"))


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


@given(count=st.integers(0, 300), size=st.integers(4, 50))
def test_the_sample_is_a_function_of_language_and_count(count: int, size: int) -> None:
    config = CalibrationConfig(fit_rows=size)
    rows = sample_rows("de", count, config)
    assert len(rows) == min(count, size)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, sample_rows("de", count, config))


def embed_by_hand(uri: str, rows: dict[str, np.ndarray], cuts: int) -> Artifact:
    pieces = []
    for lang, vectors_ND in rows.items():
        starts = np.linspace(0, len(vectors_ND), cuts + 1).astype(int)
        pieces += [one_language(vectors_ND[a:b], lang, int(a)) for a, b in itertools.pairwise(starts)]
    return write_embeddings(uri, pieces)


def test_the_stage_equals_the_function_and_is_done_once(tmp_path: Path, ray_local: None) -> None:
    rows = {"en": sentences(600, 8, 1), "xx": sentences(500, 8, 2) @ turn(8, 45).T, "yy": sentences(80, 8, 3)}
    rows = {lang: value.astype(np.float32) for lang, value in rows.items()}
    embed_by_hand(str(tmp_path / "e"), rows, 3)
    config = CalibrationConfig(fit_rows=400)
    artifact = calibrate(str(tmp_path / "e"), str(tmp_path / "c"), config)
    read, direct = Calibration.open(artifact.uri), fit(rows, config)
    assert (read.pivot, read.languages, read.dimensions) == ("en", ["en", "xx", "yy"], 8)
    for lang in rows:
        for found, expected in zip(read.parameters(lang), direct.parameters(lang), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert artifact.summary["languages"]["xx"]["rotation"] == "accepted"
    assert [record.path for record in artifact.files] == ["calibration.safetensors"]
    assert not list(Path(artifact.uri).glob("_fit/*"))
    again = calibrate(str(tmp_path / "e"), str(tmp_path / "c"), config)
    assert again.provenance == artifact.provenance  # the same manifest: nothing ran again


def test_an_interrupted_stage_ends_with_the_same_artifact(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"en": sentences(200, 8, 1).astype(np.float32), "xx": sentences(200, 8, 2).astype(np.float32)}
    embed_by_hand(str(tmp_path / "e"), rows, 2)
    whole = calibrate(str(tmp_path / "e"), str(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("ccp_ray.calibration_job.fit_from", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            calibrate(str(tmp_path / "e"), str(tmp_path / "cut"))
    commits = sorted(Path(tmp_path, "cut/_ledger/moments").iterdir())
    commits[1].unlink()
    assert calibrate(str(tmp_path / "e"), str(tmp_path / "cut")).fingerprint == whole.fingerprint


def test_bad_input_leaves_the_store_as_it_was(tmp_path: Path, ray_local: None) -> None:
    rows = {"en": sentences(60, 4, 1), "xx": sentences(5, 4, 2)}
    embed_by_hand(str(tmp_path / "few"), {k: v.astype(np.float32) for k, v in rows.items()}, 1)
    with pytest.raises(DataError, match=r"too few rows to calibrate xx \(5\)"):
        calibrate(str(tmp_path / "few"), str(tmp_path / "out"))
    embed_by_hand(str(tmp_path / "flat"), {"en": np.ones((60, 4), dtype=np.float32)}, 1)
    with pytest.raises(DataError, match="collapsed"):
        calibrate(str(tmp_path / "flat"), str(tmp_path / "out"))
    assert not list(Path(tmp_path, "out").rglob("*"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    output = open_output(str(tmp_path / "c"), Request(kind="calibration", config={}))
    assert not isinstance(output, Artifact)
    record = fit({"en": sentences(60, 4, 0)}).save(output.store)
    output.finish([record], {"pivot": "en"})
    assert Calibration.open(str(tmp_path / "c")).languages == ["en"]
    Path(tmp_path, "c/calibration.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"calibration\.safetensors: checksum does not match"):
        Calibration.open(str(tmp_path / "c"))
