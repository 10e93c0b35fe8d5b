"""Passage sets: the formats are read back by the benchmarks, gold is in its place, bytes are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccp_ray.artifact import verify_artifact
from ccp_ray.errors import DataError, UsageError
from eval.baseline import evaluate_baseline
from eval.collection_texts import read_collection
from eval.mrtydi import load_mrtydi
from eval.passage_sets import PassagesConfig, make_passages
from eval.xor_retrieve import load_xor_retrieve

LONG = " ".join(f"word{i}" for i in range(150))


def squad(title, paragraphs):
    rows = [
        {"context": text, "qas": [{"id": f"{n}", "question": question, "answers": [{"text": answer}] * 2}]}
        for n, (text, question, answer) in enumerate(paragraphs)
    ]
    return {"data": [{"title": title, "paragraphs": rows}]}


def squad_folder(folder: Path) -> str:
    folder.mkdir()
    english = [
        (f"{LONG} the answer is Oulu", "where is it?", "Oulu"),
        ('A "second" text\twith tab', "which?", "second"),
    ]
    finnish = [("vastaus on Oulu", "missä on Oulu?", "Oulu"), ("toinen", "mikä second?", "toinen")]
    for lang, rows in (("en", english), ("fi", finnish)):
        (folder / f"x.{lang}.json").write_text(json.dumps(squad("Some_title", rows)))
    return str(folder)


def test_sets_are_read_and_scored_by_the_benchmarks(ray_local, tmp_path):
    config = PassagesConfig(distractors=2500, languages=3)
    artifact = make_passages(squad_folder(tmp_path / "squad"), str(tmp_path / "out"), config)
    assert not verify_artifact(artifact)
    benchmark = load_mrtydi(artifact.uri)
    docs = {one.name: read_collection(one.uri) for one in benchmark.collections()}
    assert {lang: len(own.ids) for lang, own in docs.items()} == {"en": 2502, "fi": 2502}
    assert docs["fi"].texts[0] == "Some title\n\nvastaus on Oulu"
    assert all(benchmark.check_documents(lang, set(own.ids)) == 0 for lang, own in docs.items())
    xor = load_xor_retrieve(artifact.uri)
    passages = read_collection(xor.collections()[0].uri)
    assert passages.ids == [str(i) for i in range(1, 2504)]
    assert [len(text.split()) for text in passages.texts[:3]] == [100, 54, 5]
    assert passages.texts[2] == 'A "second" text with tab'
    assert [(q.id, q.lang) for q in xor.questions()] == [("fi-0", "fi"), ("fi-1", "fi")]
    assert xor.gold["fi-0"].answers == ["Oulu"]
    scored = evaluate_baseline("bm25", ["mrtydi", "xor_retrieve"], artifact.uri, str(tmp_path / "bm25"))
    assert scored.summary["benchmarks"]["xor_retrieve"]["raw"] == {"r@2kt": 1.0, "r@5kt": 1.0}


def test_the_same_request_gives_the_same_bytes(ray_local, tmp_path):
    folder = squad_folder(tmp_path / "squad")
    config = PassagesConfig(distractors=30)
    first, second = (make_passages(folder, str(tmp_path / name), config) for name in "ab")
    assert first.fingerprint == second.fingerprint
    assert make_passages(folder, str(tmp_path / "a"), config).fingerprint == first.fingerprint


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no files NAME.LANG.json in SQuAD's format"):
        make_passages(str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "x.fi.json").write_text(json.dumps({"data": []}))
    with pytest.raises(DataError, match="no English file"):
        make_passages(str(tmp_path), str(tmp_path / "out"))
    (tmp_path / "x.en.json").write_text('{"data": [{"paragraphs": [{}]}]}')
    with pytest.raises(DataError, match=r'x.en.json, article 1: no "context"'):
        make_passages(str(tmp_path), str(tmp_path / "out"))
