"""The stage: equal to the function, done once, continued after a fault."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from synthetic_spaces import sentences, turn

from ccp_ray.artifact import Artifact
from ccp_ray.calibration import Calibration
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.calibration_job import calibrate
from ccp_ray.errors import DataError


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
