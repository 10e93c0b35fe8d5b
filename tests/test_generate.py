"""The generator's artifact: complete, bounded in files, and the same bytes in every run."""

from __future__ import annotations

import gzip
import json

import pytest

from ccp_ray import generate as module
from ccp_ray.artifact import verify_artifact
from ccp_ray.errors import DriftError
from ccp_ray.generate import generate
from ccp_ray.languages import LanguageFamily, LanguagesConfig

CONFIG = LanguagesConfig(count=2, concepts=40, documents=5, dev_documents=2, sentences=3, test_sentences=7)


def test_documents_and_translations(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_DOCUMENTS", 3)
    artifact = generate(str(tmp_path / "a"), CONFIG)
    assert artifact.kind == "documents"
    names = [f"documents/{code}/{i:05d}.jsonl.gz" for code in ("qaa", "qab") for i in range(3)]
    assert [file.path for file in artifact.files] == [*names, "translations/qaa.txt", "translations/qab.txt"]
    assert verify_artifact(artifact) == []
    family = LanguageFamily(CONFIG)
    for code in family.codes:
        packed = [artifact.store.read(name) for name in names if code in name]
        rows = [json.loads(line) for data in packed for line in gzip.decompress(data).decode().splitlines()]
        assert rows == list(family.documents(code))
        lines = artifact.store.read(f"translations/{code}.txt").decode().splitlines()
        assert lines == family.translations()[code]
    assert artifact.summary == {
        "languages": {"qaa": 7, "qab": 7},
        "documents": 14,
        "sentences": 42,
        "translations": 7,
    }


def test_two_runs_agree_and_a_second_request_is_already_done(ray_local, tmp_path):
    first = generate(str(tmp_path / "a"), CONFIG)
    assert generate(str(tmp_path / "b"), CONFIG).fingerprint == first.fingerprint
    assert generate(str(tmp_path / "a"), CONFIG) == first
    with pytest.raises(DriftError, match="seed: 0 -> 1"):
        generate(str(tmp_path / "a"), CONFIG.model_copy(update={"seed": 1}))


def test_dev_translations_stand_beside_the_others(ray_local, tmp_path):
    plain = generate(str(tmp_path / "a"), CONFIG)
    both = generate(str(tmp_path / "b"), CONFIG.model_copy(update={"dev_sentences": 4}))
    extra = {file.path: file for file in both.files}
    for file in plain.files:
        assert extra.pop(file.path) == file
    assert sorted(extra) == ["dev_translations/qaa.txt", "dev_translations/qab.txt"]
    assert both.summary == plain.summary | {"dev_translations": 4}
    assert len(both.store.read("dev_translations/qaa.txt").decode().splitlines()) == 4
