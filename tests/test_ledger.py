"""The ledger: a piece exists when its entry does; the first commit stands, whatever order or crash."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ccp_ray.errors import DamagedError, StoreError
from ccp_ray.ledger import (
    Entry,
    FileRecord,
    Ledger,
    check_file,
    put_bytes,
    put_file,
    put_folder,
    sound_copy,
    verified_copy,
)
from ccp_ray.storage import LocalStore, open_store


class KilledError(BaseException):
    """Stands for kill -9 at a point of a writer's work."""


def work(ledger: Ledger, piece: str, data: bytes, killed_at: int) -> bool:
    """A writer as every stage has it: files, then the entry. Dies before step `killed_at`."""
    steps = [
        lambda: put_bytes(ledger.store, f"data/{piece}.a", data),
        lambda: put_bytes(ledger.store, f"data/{piece}.b", data[::-1]),
    ]
    records = []
    for number, step in enumerate(steps):
        if number == killed_at:
            raise KilledError
        records.append(step())
    if killed_at == len(steps):
        raise KilledError
    return ledger.commit(piece, Entry(rows=len(data), files=records))


class LedgerModel(RuleBasedStateMachine):
    """Writers come in any order, twice, and die anywhere; the model is a dict of first commits."""

    @initialize()
    def start(self):
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(LocalStore(Path(self.folder.name)))
        self.model: dict[str, Entry] = {}

    @rule(piece=st.sampled_from(["0", "1", "de/0", "de/1"]), killed_at=st.integers(0, 3))
    def write(self, piece, killed_at):
        data = f"content of {piece}".encode()
        try:
            won = work(self.ledger, piece, data, killed_at)
        except KilledError:
            return
        assert won == (piece not in self.model)
        self.model.setdefault(piece, self.ledger.read(piece))

    @rule(piece=st.sampled_from(["0", "de/1"]), rows=st.integers(0, 5))
    def rival_with_another_entry(self, piece, rows):
        entry = Entry(rows=rows, info={"rival": True})
        assert self.ledger.commit(piece, entry) == (piece not in self.model)
        self.model.setdefault(piece, entry)

    @rule(piece=st.sampled_from(["0", "1"]))
    def retract(self, piece):
        self.ledger.retract(piece)
        self.model.pop(piece, None)

    @invariant()
    def readers_see_exactly_the_first_commits(self):
        fresh = Ledger(LocalStore(Path(self.folder.name)))  # as another process would read it
        assert fresh.committed() == set(self.model)
        assert fresh.entries() == self.model
        assert list(fresh.entries(among={"1"})) == sorted({"1"} & set(self.model))
        for entry in self.model.values():
            assert [check_file(fresh.store, record) for record in entry.files] == [None] * len(entry.files)

    def teardown(self):
        self.folder.cleanup()


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(max_examples=25, stateful_step_count=15)


def test_commit_and_read_back(root_uri):
    store = open_store(root_uri)
    ledger = Ledger(store, "_ledger/embed")
    assert ledger.committed() == set()
    assert ledger.entries() == {}
    entry = Entry(rows=3, quarantined=1, files=[put_bytes(store, "x", b"abc")], info={"ids": [1, "é"], "f": 0.1})
    assert ledger.commit("de/0", entry)
    assert not ledger.commit("de/0", Entry(rows=9))
    assert ledger.committed() == {"de/0"}
    assert ledger.read("de/0") == entry
    assert Ledger(store, "_ledger/other").committed() == set()
    assert Ledger(store).committed() == {"embed/de/0"}
    with pytest.raises(StoreError, match=r"_ledger/embed/1\.json: the piece is not committed"):
        ledger.read("1")


def test_of_racing_commits_one_stands(tmp_path):
    ledger = Ledger(LocalStore(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: ledger.commit("p", Entry(rows=i)), range(32)))
    assert sum(won) == 1
    assert ledger.read("p").rows == won.index(True)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"rows": 1, "more": 2}', b'{"rows": "1"}', b"\xff\xfe", b"[]"])
def test_a_damaged_entry_says_what_to_do(tmp_path, damage):
    ledger = Ledger(LocalStore(tmp_path))
    ledger.commit("0", Entry(rows=1))
    (tmp_path / "_ledger" / "0.json").write_bytes(damage)
    for action in (lambda: ledger.read("0"), ledger.entries):
        with pytest.raises(StoreError, match=r"_ledger/0\.json: damaged ledger entry; delete this object"):
            action()


def test_other_files_in_the_folder_are_not_pieces(tmp_path):
    ledger = Ledger(LocalStore(tmp_path))
    ledger.commit("0", Entry())
    (tmp_path / "_ledger" / "notes.txt").write_text("x")
    assert ledger.committed() == {"0"}


def test_records_equal_the_files(root_uri, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    contents = {"b.bin": bytes(range(256)) * 40_000, "a.txt": b"", "sub/c": b"c"}  # 10 MB: more than one chunk
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    store = open_store(root_uri)
    records = put_folder(store, folder, "encoder/")
    assert [record.path for record in records] == ["encoder/a.txt", "encoder/b.bin", "encoder/sub/c"]
    for record in records:
        data = contents[record.path.removeprefix("encoder/")]
        assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert store.read(record.path) == data
        assert check_file(store, record) is None
    assert put_file(store, "one", folder / "b.bin").sha256 == put_bytes(store, "two", contents["b.bin"]).sha256


def test_check_file_names_each_kind_of_damage(root_uri):
    store = open_store(root_uri)
    record = put_bytes(store, "x", b"0123456789")
    store.write("x", b"0123456788")
    assert "x: checksum does not match" in str(check_file(store, record))
    store.write("x", b"01234567890")
    assert "x: 11 bytes, expected 10" in str(check_file(store, record))
    store.delete("x")
    assert str(check_file(store, record)).endswith("x: missing")


def test_a_copy_of_an_object_that_is_gone_or_altered_says_so(root_uri, tmp_path):
    """On S3 the download fails where locally the check does: the same words either way."""
    store = open_store(root_uri)
    record = put_bytes(store, "a/b", b"12345")
    assert verified_copy(store, record, tmp_path / "cache").read_bytes() == b"12345"
    store.delete("a/b")
    for number, copy in enumerate((verified_copy, sound_copy)):
        with pytest.raises(DamagedError, match=r"some/prefix/a/b: missing|store/a/b: missing") as told:
            copy(store, record, tmp_path / f"cache {number}")
        assert "\n" not in str(told.value)
    store.write("a/b", b"54321")
    with pytest.raises(DamagedError, match=r"a/b: altered or damaged .*checksum does not match.*make this artifact"):
        verified_copy(store, record, tmp_path / "cache 2")


def test_entries_are_plain_json(tmp_path):
    ledger = Ledger(LocalStore(tmp_path))
    ledger.commit("0", Entry(rows=2, files=[FileRecord(path="x", bytes=1, sha256="0" * 64)]))
    entry = json.loads((tmp_path / "_ledger" / "0.json").read_text())
    assert (entry["rows"], entry["quarantined"], entry["info"]) == (2, 0, {})
    assert entry["files"][0].items() >= {"path": "x", "bytes": 1, "sha256": "0" * 64}.items()
