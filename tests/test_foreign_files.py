"""Files that others made lead nowhere else: no key, sum, link or model folder reaches beyond its own folder."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import faiss
import numpy as np
import pytest
import tiny_models
from command_line import SmallRun, ccp
from test_imports import MODULES

from ccp_ray.artifact import find_artifact, open_artifact, verify_artifact
from ccp_ray.corpus import Corpus
from ccp_ray.errors import DamagedError, DataError, StoreError, UsageError
from ccp_ray.index_file import read_index
from ccp_ray.ledger import Entry, FileRecord, Ledger, sound_copy
from ccp_ray.model_source import local_model
from ccp_ray.sentence_modules import read_modules
from ccp_ray.storage import LocalStore, open_store
from jobs.fetch_data import copy

OUTSIDE = ("../outside", "/etc/passwd", "a/../../outside", "..", "a/\0b")
SUM = hashlib.sha256(b"secret").hexdigest()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the folder that the others' file is in."""
    path = tmp_path / "outside"
    path.write_bytes(b"secret")
    return path


def manifest(folder: Path, **record: Any) -> str:
    """An artifact in a folder whose only file is described so."""
    file = {"path": "x", "bytes": 6, "sha256": SUM} | record
    folder.mkdir(exist_ok=True)
    (folder / "artifact.json").write_text(
        json.dumps({"kind": "corpus", "config": {}, "fingerprint": "f", "files": [file]})
    )
    return str(folder)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_that_names_a_file_outside(tmp_path, secret, path):
    assert find_artifact(manifest(tmp_path / "artifact", path="inside")) is not None
    with pytest.raises(DataError, match=r"artifact\.json: not a manifest of this program, or damaged"):
        find_artifact(manifest(tmp_path / "artifact", path=path))
    assert secret.read_bytes() == b"secret"


@pytest.mark.parametrize("sha256", ["../../../outside", "/etc", "", "a" * 63, "A" * 64])
def test_a_sum_that_is_none_is_no_folder_of_the_cache(tmp_path, sha256):
    """A copy of an object in a store lies in the cache below its sum: one like ../.. would have been written there."""
    with pytest.raises(DataError, match="not a manifest of this program"):
        find_artifact(manifest(tmp_path / "artifact", sha256=sha256))


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_ledger_entry_that_names_a_file_outside(tmp_path, path):
    ledger = Ledger(LocalStore(tmp_path))
    ledger.commit("0", Entry(files=[FileRecord(path="inside", bytes=6, sha256=SUM)]))
    entry = tmp_path / "_ledger/0.json"
    entry.write_text(entry.read_text().replace("inside", path.replace("\0", "\\u0000")))
    with pytest.raises(DamagedError, match=r"_ledger/0\.json: damaged ledger entry"):
        ledger.read("0")


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_store_takes_such_a_key_whoever_asks(root_uri, tmp_path, secret, path):
    store = open_store(root_uri)
    record = FileRecord.model_construct(path=path, bytes=6, sha256=SUM)  # past the check of what is read
    actions: list[Callable[[], object]] = [
        lambda: store.read(path),
        lambda: store.write(path, b"x"),
        lambda: store.write_if_absent(path, b"x"),
        lambda: store.upload(secret, path),
        lambda: store.download(path, tmp_path / "new/file"),
        lambda: store.delete(path),
        lambda: sound_copy(store, record, tmp_path / "cache"),
    ]
    for action in actions:
        with pytest.raises(StoreError, match="a key must stay below"):
            action()
    assert os.listdir(tmp_path) == ["outside"]


def test_objects_of_a_bucket_that_are_named_so_are_not_fetched(moto_bucket, tmp_path, monkeypatch):
    """S3 has no folders, so ../ is a name like any other there; copied to a disk it would not be one."""
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    keys = ["data/tatoeba/../../evil.json", "model/config.json", "model/sub/../../../evil.json"]
    with contextlib.closing(http.client.HTTPConnection(urlsplit(moto_bucket.server.endpoint).netloc)) as raw:
        for key in keys:  # boto3 would straighten the path
            raw.request("PUT", f"/{moto_bucket.name}/{key}", b"{}")
            assert raw.getresponse().read() == b""
    assert moto_bucket.keys() == keys
    with pytest.raises(StoreError, match="a key must stay below"):
        local_model(f"{moto_bucket.uri}/model")
    with pytest.raises(UsageError, match="holds none of"):  # names that begin with a dot are not looked at
        copy(f"{moto_bucket.uri}/data", str(tmp_path / "fetched"))
    assert not list(tmp_path.rglob("evil.json"))


def test_nothing_is_deleted_through_a_link_that_leads_out(tmp_path):
    """`gc --delete` on an artifact that came with a link to a folder of yours."""
    artifact, yours = manifest(tmp_path / "artifact"), tmp_path / "yours"
    yours.mkdir()
    (yours / "letter").write_text("dear")
    os.utime(yours / "letter", (time.time() - 1e6,) * 2)
    Path(artifact, "shards").symlink_to(yours)
    result = ccp("gc", artifact, "--delete", "--older-than", "1")
    assert result.code == 1
    assert f"shards/letter: a symbolic link leads out of {artifact}; nothing is deleted there" in result.error
    assert (yours / "letter").read_text() == "dear"


def test_a_link_in_an_artifact_gives_away_nothing_that_its_maker_does_not_know(tmp_path, secret):
    """Links are followed, but a file counts only with the sum that the manifest has."""
    artifact = manifest(tmp_path / "artifact", sha256="0" * 64)
    Path(artifact, "x").symlink_to(secret)
    (problem,) = verify_artifact(open_artifact(artifact))
    assert "checksum does not match" in problem
    with pytest.raises(DataError, match="checksum does not match"):
        open_artifact(artifact).read("x")


def test_the_tokenizer_of_a_corpus_stays_in_the_cache(small_run: SmallRun, moto_bucket, tmp_path):
    store, evil = open_store(f"{moto_bucket.uri}/corpus"), "tokenizer/../../../evil"
    for path in Path(small_run.corpus).rglob("*"):
        if path.is_file():
            store.upload(path, path.relative_to(small_run.corpus).as_posix())
    Corpus.open(store.root).tokenizer_folder(tmp_path / "cache")
    made = json.loads(store.read("artifact.json"))
    made["files"].append({"path": evil, "bytes": 1, "sha256": SUM})
    store.write("artifact.json", json.dumps(made).encode())
    with pytest.raises(DataError, match="not a manifest"):
        Corpus.open(store.root)


# Model folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.plain_folder(tmp_path / "model")


@pytest.mark.parametrize("place", [(), ("text_config",), ("towers", 1)], ids=["itself", "inner", "in a list"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_an_attention_from_the_hub_is_code_and_is_refused(model, key, place):
    settings = json.loads((model / "config.json").read_text())
    assert local_model(str(model)) == model
    inner: Any = {key: "someone/kernels@main"}
    for part in reversed(place):
        inner = [0, inner] if part == 1 else {part: inner}
    (model / "config.json").write_text(json.dumps(settings | inner))
    with pytest.raises(UsageError, match=rf"config\.json: {key} is someone/kernels@main, code from elsewhere"):
        local_model(str(model))


@pytest.mark.parametrize("place", ["../elsewhere", "/elsewhere"])
def test_modules_outside_the_folder_are_refused(model, place):
    kinds = [("Transformer", ""), ("Pooling", place)]
    steps = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (model / "modules.json").write_text(json.dumps(steps))
    with pytest.raises(UsageError, match=rf"Pooling names '{place}', which lies outside the model's folder"):
        read_modules(model)


# FAISS


def write_on_disk(path: Path, lists: Path, wrapped: bool) -> None:
    """An IVF whose lists lie in a file of their own; in a refined index where wrapped."""
    index, fine = faiss.index_factory(8, "IVF2,Flat", faiss.METRIC_INNER_PRODUCT), faiss.IndexFlatIP(8)
    vectors_ND = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    index.train(vectors_ND)
    moved = faiss.OnDiskInvertedLists(2, index.code_size, str(lists))
    index.replace_invlists(moved, False)
    index.add(vectors_ND)
    fine.add(vectors_ND)
    faiss.write_index(faiss.IndexRefine(index, fine) if wrapped else index, str(path))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("flags", [0, faiss.IO_FLAG_MMAP_IFC])
def test_an_index_whose_lists_lie_elsewhere_is_refused(tmp_path, wrapped, flags):
    path = tmp_path / "index.faiss"
    write_on_disk(path, tmp_path / "lists", wrapped)
    with pytest.raises(DataError, match=r"s3://b/x: its inverted lists lie in a file elsewhere, which is never opened"):
        read_index(path, "s3://b/x", flags)


def test_an_index_that_faiss_cannot_read(tmp_path):
    (tmp_path / "x").write_bytes(b"IxYZ" + b"\0" * 100)
    with pytest.raises(DataError, match="s3://b/x: FAISS cannot read this file"):
        read_index(tmp_path / "x", "s3://b/x")


# The source


def calls() -> list[tuple[str, ast.Call, str]]:
    """Every call in the source: where, what, and the dotted name that is called."""
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.append((f"{module}:{node.lineno}", node, ast.unparse(node.func)))
    return found


def test_nothing_that_runs_code_of_a_file_or_trusts_anybody_is_called():
    """ruff's S rules know most of this; here is what they do not."""
    for where, call, name in calls():
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert given.get("verify") != "False", where
        assert given.get("allow_pickle", "False") == "False", where
        assert given.get("trust_remote_code", "False") in ("False", "trust"), where  # of `trusting`: by digest
        assert given.get("trust", "trust") == "trust", where
        assert name not in ("torch.load", "faiss.read_index") or where.startswith("ccp_ray.index_file:"), where
        assert not name.endswith(("._create_unverified_context", ".disable_warnings", ".extractall")), where
        assert not name.endswith("np.load") or given.get("allow_pickle") == "False", where
        if name.endswith("from_pretrained") and not name.startswith("self"):
            assert {"trust_remote_code", None} & set(given), where  # None: **settings, in encoder.from_folder alone


def test_ruffs_security_rules_are_on():
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    lists = {
        name: ast.literal_eval(values)
        for name, values in re.findall(r"^(select|ignore) = (\[.*?\])", text, re.M | re.S)
    }
    assert "S" in lists["select"]
    assert {rule for rule in lists["ignore"] if re.match(r"S\d", rule)} == {"S101", "S603"}  # assert; no shell anyway
