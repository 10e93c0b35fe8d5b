"""A model folder that brings code: refused with its digest, run where exactly that digest was named, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import transformers

from ccp_ray.encoder import Encoder, load_trainable
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.errors import UsageError
from ccp_ray.model_code import VARIABLE, code_digest
from ccp_ray.model_source import hidden_size, model_reference
from ccp_ray.session import _worker_environment
from ccp_ray.text_reader import load_tokenizer, tokenizer_of

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
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
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
    for load in (Encoder.load, tokenizer_of):  # the second reads the shape alone
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


@pytest.mark.parametrize("altered", ["modeling_own.py", "_imported_by_it.py"])
def test_other_code_is_refused_again(own, tmp_path, monkeypatch, altered):
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with (own / altered).open("a") as file:
        file.write("\n# another\n")
    with pytest.raises(UsageError, match="which is not run"):
        Encoder.load(str(own))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(VARIABLE, code_digest(own))
    fingerprint = model_reference("encoder", str(own)).fingerprint
    (own / altered).write_text((own / altered).read_text() + "\n# and another\n")
    monkeypatch.setenv(VARIABLE, code_digest(own))
    assert model_reference("encoder", str(own)).fingerprint != fingerprint


@pytest.mark.parametrize("where", ["somebody/else--configuration_own", "{outside}", "linked/evil", "../evil", "absent"])
def test_code_that_the_digest_does_not_cover_is_not_run(own, tmp_path, monkeypatch, where):
    """transformers follows all of these: a repository, a path, a link, a step up."""
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for folder in (outside, tmp_path):
        (folder / "evil.py").write_text((own / "configuration_own.py").read_text())
    (own / "linked").symlink_to(outside)
    named = where.format(outside=outside / "evil")
    name(own, {"AutoConfig": f"{named}.OwnConfig", "AutoModel": "modeling_own.OwnModel"})
    monkeypatch.setenv(VARIABLE, code_digest(own))
    for load in (Encoder.load, tokenizer_of):
        with pytest.raises(UsageError, match=f"auto_map names {re.escape(named)}.OwnConfig, which the digest"):
            load(str(own))
    assert not (tmp_path / "ran").exists()


def test_settings_in_another_file_are_not_followed(own, tmp_path, monkeypatch):
    settings = json.loads((own / "config.json").read_text())
    (own / "config.1.0.0.json").write_text(json.dumps(settings | {"auto_map": {"AutoConfig": "/none/evil.Own"}}))
    (own / "config.json").write_text(json.dumps(settings | {"configuration_files": ["config.1.0.0.json"]}))
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with pytest.raises(UsageError, match="configuration_files names other settings"):
        Encoder.load(str(own))


def test_code_that_cannot_be_loaded_is_one_line(own, monkeypatch):
    (own / "modeling_own.py").write_text("import no_such_package_of_anybody\n")
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with pytest.raises(UsageError, match=r"cannot load this model.*no_such_package_of_anybody") as caught:
        Encoder.load(str(own))
    assert VARIABLE not in str(caught.value)


def test_a_tokenizers_own_code_never_runs(own, tmp_path, monkeypatch):
    settings = json.loads((own / "tokenizer_config.json").read_text())
    for names in ({"AutoTokenizer": ["configuration_own.Own", None]}, ["configuration_own.Own", None]):
        (own / "tokenizer_config.json").write_text(json.dumps(settings | {"auto_map": names}))
        load_tokenizer(own)
    assert not (tmp_path / "ran").exists()


def test_training_takes_what_transformers_knows(own, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, code_digest(own))
    with pytest.raises(UsageError, match="cannot load this model"):
        load_trainable(str(own), EncoderConfig(), own, with_mlm=False, seed=0)
    assert not (tmp_path / "ran").exists()


def test_the_width_is_known_without_running_anything(own, tmp_path):
    assert hidden_size(str(own)) == json.loads((own / "config.json").read_text())["hidden_size"]
    assert not (tmp_path / "ran").exists()
