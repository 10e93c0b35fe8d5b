"""Novels from a pinned commit to documents: works, splits, shares, cuts, left-out test sentences, the same bytes."""

from __future__ import annotations

import gzip
import json

import pytest
from eltec import commit, git, novel

from ccp_ray.errors import DataError, UsageError
from jobs import novels
from jobs.novels import Collection, collections, documents, recipe

LONG = [f"{number:03} " + "word " * 79 for number in range(100)]  # 100 paragraphs of 399 characters
NOVELS = {
    "level1/ENG2_Dee.xml": novel("Second", ["It rained. Thank you for your letter. He left.", "So."]),
    "level1/ENG1_Ash.xml": novel("First", ["One.", "Two."], LONG, ["The end."]),
    "level1/ENG12_Not.xml": novel("Another work", ["whose id only begins alike"]),
    "level1/ENG2_Dee.txt": "not XML",
    "level0/ENG1_Ash.xml": novel("First in a lower level", ["x"]),
    "level0/ENG3-Eve.xml": novel("Third", ["Only level 0 has this."]),
    "level2/ENG1_Ash.xml": novel("First with annotations", ["x"]),
}


@pytest.fixture
def english(tmp_path):
    pinned = commit(tmp_path / "base" / "ELTeC-eng", NOVELS)
    return str(tmp_path / "base"), Collection(
        repository="ELTeC-eng", commit=pinned, train=["ENG3", "ENG1"], dev=["ENG2"]
    )


def rows(data: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.decompress(data).decode().splitlines()]


def test_documents(english):
    base, collection = english
    found = rows(documents("en", collection, base, frozenset()))
    assert [row["id"] for row in found] == [
        "eltec-ENG1-0", "eltec-ENG1-1.0", "eltec-ENG1-1.1", "eltec-ENG1-1.2", "eltec-ENG1-2",
        "eltec-ENG2-0", "eltec-ENG3-0",
    ]  # fmt: skip
    assert found[0] == {
        "id": "eltec-ENG1-0", "lang": "en", "title": "First", "text": "One.\nTwo.",
        "source": "eltec", "license": "PD text, CC-BY-4.0 markup", "split": "train",
    }  # fmt: skip
    assert "\n".join(row["text"] for row in found[1:4]) == "\n".join(text.strip() for text in LONG)
    assert [row["text"].count("\n") + 1 for row in found[1:4]] == [34, 33, 33]
    assert {row["title"]: row["split"] for row in found} == {"First": "train", "Second": "dev", "Third": "train"}


def test_test_sentences_are_left_out(english):
    base, collection = english
    left_out = frozenset({"Thank you for your letter.", "So.", "Only level 0 has this.", "He"})
    texts = {row["id"]: row["text"] for row in rows(documents("en", collection, base, left_out))}
    assert texts["eltec-ENG2-0"] == "It rained. He left."
    assert "eltec-ENG3-0" not in texts  # nothing is left of it
    assert texts["eltec-ENG1-0"] == "One.\nTwo."


def test_each_work_has_the_same_share_of_its_beginning(english, monkeypatch):
    base, collection = english
    monkeypatch.setattr(novels, "_BYTES_PER_LANGUAGE", 3 * 14_000)
    found = rows(documents("en", collection, base, frozenset()))
    assert [row["id"] for row in found] == ["eltec-ENG1-0", "eltec-ENG1-1.0", "eltec-ENG2-0", "eltec-ENG3-0"]
    monkeypatch.setattr(novels, "_BYTES_PER_LANGUAGE", 3)
    found = rows(documents("en", collection, base, frozenset()))
    assert [row["id"] for row in found] == ["eltec-ENG1-0", "eltec-ENG2-0", "eltec-ENG3-0"]  # at least one each


def test_the_same_bytes_again_and_from_a_mirror(english, tmp_path):
    base, collection = english
    first = documents("en", collection, base, frozenset({"So."}))
    mirror = tmp_path / "mirror" / "ELTeC-eng"
    mirror.parent.mkdir()
    git(tmp_path, "clone", "--quiet", "--bare", f"{base}/ELTeC-eng", str(mirror))
    assert documents("en", collection, f"file://{mirror.parent}/", frozenset({"So."})) == first
    assert first[:10] == bytes([31, 139, 8, 0, 0, 0, 0, 0, 2, 255])  # no flags, no time, system unknown


def test_a_later_commit_changes_nothing(english, tmp_path):
    base, collection = english
    first = documents("en", collection, base, frozenset())
    later = commit(tmp_path / "base" / "ELTeC-eng", {"level1/ENG2_Dee.xml": novel("Second", ["Rewritten."])})
    assert documents("en", collection, base, frozenset()) == first
    changed = collection.model_copy(update={"commit": later})
    assert documents("en", changed, base, frozenset()) != first


def test_a_work_that_is_not_there_or_there_twice(english, tmp_path):
    base, _ = english
    pinned = commit(tmp_path / "base" / "ELTeC-eng", {"level1/ENG2.xml": "again"})
    wrong = Collection(repository="ELTeC-eng", commit=pinned, train=["ENG1", "ENG9"], dev=["ENG2"])
    with pytest.raises(DataError) as raised:
        documents("en", wrong, base, frozenset())
    message = str(raised.value)
    assert "ENG2 (level1/ENG2.xml, level1/ENG2_Dee.xml), ENG9 (no file)" in message
    assert pinned in message
    assert "ENG1 " not in message


def test_damaged_xml_is_named(english, tmp_path):
    base, collection = english
    pinned = commit(tmp_path / "base" / "ELTeC-eng", {"level1/ENG2_Dee.xml": NOVELS["level1/ENG2_Dee.xml"][:-9]})
    with pytest.raises(DataError, match=rf"base/ELTeC-eng/level1/ENG2_Dee\.xml at commit {pinned}: broken XML \("):
        documents("en", collection.model_copy(update={"commit": pinned}), base, frozenset())


def test_the_recipe_knows_what_decides_the_bytes(english, monkeypatch):
    _, collection = english
    usual = recipe("en", collection, frozenset({"a", "b"}))
    assert usual == recipe("en", collection, frozenset({"b", "a"}))
    others = [
        recipe("de", collection, frozenset({"a", "b"})),
        recipe("en", collection, frozenset({"a"})),
        recipe("en", collection.model_copy(update={"commit": "0" * 40}), frozenset({"a", "b"})),
        recipe("en", collection.model_copy(update={"dev": []}), frozenset({"a", "b"})),
    ]
    monkeypatch.setattr(novels, "_CHARACTERS_PER_DOCUMENT", 8_000)
    others.append(recipe("en", collection, frozenset({"a", "b"})))
    assert len({usual, *others}) == 6


def test_the_table():
    table = collections()
    assert sorted(table) == ["cs", "de", "en", "es", "fr", "pl", "pt", "ro", "sl", "uk"]
    for lang, collection in table.items():
        works = [work for work, _ in collection.works()]
        assert len(works) == len(set(works)) >= 49, lang
        assert all(work.isalnum() for work in works), lang
    assert len({collection.commit for collection in table.values()}) == len(table)
    assert list(collections(["fr", "de", "fr"])) == ["fr", "de"]
    for chosen, named in ((["de", "it"], "it"), ([], "no language")):
        with pytest.raises(UsageError, match=rf"no novels are pinned for {named}; there are cs, de.*--from DIR"):
            collections(chosen)
    with pytest.raises(ValueError, match="commit"):
        Collection(repository="x", commit="v1.1.0", train=[], dev=[])


def test_the_table_has_the_works_and_splits_of_the_real_text(data_folder):
    """The works that a user downloads are those that a user with the copy has, split alike."""
    for lang, collection in collections().items():
        with gzip.open(data_folder / "documents" / f"{lang}.jsonl.gz", "rt") as lines:
            there = {(row["id"].split("-")[1], row["split"]) for row in map(json.loads, lines)}
        assert sorted(there) == collection.works(), lang
