"""An untrained encoder: its shape and tokens are the source's, its weights nobody's, and the seed decides them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from command_line import ccp
from safetensors.numpy import load_file

from ccp_ray.artifact import open_artifact, verify_artifact
from ccp_ray.encoder import Encoder
from ccp_ray.sentence_modules import Dense, LayerNorm, Normalize

TEXTS = ["abc", "zyx wv", "a"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """An encoder whose sentence modules hold weights too."""
    encoder = tiny_models.encoder("mean", max_tokens=12)
    steps = (Dense(16, 8, True, "Tanh", False), LayerNorm(8), Normalize())
    encoder.modules = encoder.modules._replace(steps=steps)
    (tmp_path / "source").mkdir()
    encoder.save(tmp_path / "source")
    return str(tmp_path / "source")


def test_shape_and_tokens_stay_and_weights_are_drawn_by_the_seed(source: str, tmp_path: Path) -> None:
    made = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        result = ccp("untrained", source, "--output", tmp_path / name, "--seed", seed, "--json")
        assert result.code == 0, result.err
        made[name] = open_artifact(result.json["artifact"]["uri"], "encoder")
        assert verify_artifact(made[name]) == []
    vectors = {name: Encoder.load(artifact.uri).encode(TEXTS) for name, artifact in made.items()}
    before, after = Encoder.load(source), Encoder.load(made["one"].uri)
    assert np.array_equal(vectors["one"], vectors["again"])
    np.testing.assert_allclose(np.linalg.norm(vectors["one"], axis=1), 1, atol=1e-5)
    for others in (before.encode(TEXTS), vectors["other"]):
        assert np.abs(vectors["one"] - others).max() > 0.01
    assert (after.max_tokens, after.pooling, after.dimensions) == (before.max_tokens, before.pooling, before.dimensions)
    for one, other in zip(after.reader.tokenize(TEXTS)[0], before.reader.tokenize(TEXTS)[0], strict=True):
        assert np.array_equal(one, other)
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        weights, old = load_file(f"{made['one'].uri}/{file}"), load_file(f"{source}/{file}")
        shared = weights.keys() & old.keys()
        assert shared
        matrices = [name for name in shared if weights[name].ndim == 2]
        assert all(weights[name].shape == old[name].shape for name in shared)
        assert not any(np.array_equal(weights[name], old[name]) for name in matrices)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    result = ccp("untrained", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert result.code == 2
    assert "no such model folder" in result.error
    assert not (tmp_path / "out").exists()
