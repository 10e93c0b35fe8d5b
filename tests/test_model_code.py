"""A model folder that brings code: refused with its digest, run where exactly that digest was named, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from ccp_ray.encoder import Encoder, load_trainable
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.errors import UsageError
from ccp_ray.model_code import VARIABLE, code_digest
from ccp_ray.model_source import hidden_size, model_reference
from ccp_ray.session import _worker_environment
from ccp_ray.text_reader import tokenizer_of

SHAPE = """
from pathlib import Path
from transformers import BertConfig

Path({ran!r}).touch()

class OwnConfig(BertConfig):
    model_type = "own"
"""
MODEL = """
from transformers import BertModel
from .configuration_own import OwnConfig

class OwnModel(BertModel):
    config_class = OwnConfig

    def forward(self, *arguments, **named):
        made = super().forward(*arguments, **named)
        made.last_hidden_state = -made.last_hidden_state
        return made
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny encoder whose own code turns every vector round, and leaves a file where it ran."""
    monkeypatch.delenv(VARIABLE, raising=False)
    folder = tiny_models.plain_folder(tmp_path / "own")
    (folder / "configuration_own.py").write_text(SHAPE.format(ran=str(tmp_path / "ran")))
    (folder / "modeling_own.py").write_text(MODEL)
    names = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    name(folder, names, model_type="own")
    return folder


def name(folder: Path, names: dict[str, str], **changes: str) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"auto_map": names} | changes))


def test_it_is_refused_with_what_would_allow_it_and_run_where_that_is_said(own, tmp_path, monkeypatch):
    plain = Encoder.load(str(tiny_models.plain_folder(tmp_path / "plain"))).encode(["ab", "cd ef"])
    expected = (
        r"it brings code \(configuration_own\.py, modeling_own\.py\), which is not run\. "
        rf"To run exactly this: read it, then set {VARIABLE}={code_digest(own)}$"
    )
    for load in (Encoder.load, tokenizer_of):
        with pytest.raises(UsageError, match=expected):
            load(str(own))
    assert not (tmp_path / "ran").exists()
    refused = model_reference("encoder", str(own)).fingerprint
    monkeypatch.setenv(VARIABLE, f"{'0' * 32}, {code_digest(own)}")
    assert tokenizer_of(str(own)).tokenize(["ab"])[1] == 0
    np.testing.assert_allclose(Encoder.load(str(own)).packed().encode(["ab", "cd ef"]), -plain, atol=1e-5)
    assert (tmp_path / "ran").exists()
    assert model_reference("encoder", str(own)).fingerprint != refused  # the code is now part of what makes vectors
    assert _worker_environment()[VARIABLE].endswith(code_digest(own))


@pytest.mark.parametrize("altered", ["modeling_own.py", "imported_by_it.py"])
def test_other_code_is_refused_again(own, tmp_path, monkeypatch, altered):
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with (own / altered).open("a") as file:
        file.write("\n# another\n")
    with pytest.raises(UsageError, match="which is not run"):
        Encoder.load(str(own))
    assert not (tmp_path / "ran").exists()


def test_code_of_another_repository_is_never_fetched(own, tmp_path, monkeypatch):
    name(own, {"AutoConfig": "somebody/else--configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"})
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with pytest.raises(UsageError, match=r"names code of another repository \(somebody/else--configuration_own"):
        Encoder.load(str(own))
    assert not (tmp_path / "ran").exists()


def test_training_takes_what_transformers_knows(own, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with pytest.raises(UsageError, match="cannot load this model"):
        load_trainable(str(own), EncoderConfig(), own, with_mlm=False, seed=0)
    assert not (tmp_path / "ran").exists()


def test_the_width_is_known_without_running_anything(own, tmp_path):
    assert hidden_size(str(own)) == json.loads((own / "config.json").read_text())["hidden_size"]
    assert not (tmp_path / "ran").exists()
