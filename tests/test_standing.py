"""How far an output is: a ledger with known times against what is said of it."""

from __future__ import annotations

import json
import os
import time

import pytest
from command_line import ccp

from ccp_ray.artifact import JOB, Request
from ccp_ray.errors import DamagedError
from ccp_ray.ledger import Entry, Ledger
from ccp_ray.standing import recent_speed, standing
from ccp_ray.storage import LocalStore, Store, open_store

NOW = 1_900_000_000.0


def plan(store: LocalStore, stage: str, rows: dict[str, int], written: float) -> None:
    store.write(f"_plan/{stage}.json", json.dumps({"pieces": rows}).encode())
    os.utime(store.path / "_plan" / f"{stage}.json", (written, written))


def commit(store: LocalStore, stage: str, piece: str, when: float, quarantined: int = 0) -> None:
    Ledger(store, f"_ledger/{stage}").commit(piece, Entry(rows=7, quarantined=quarantined))
    os.utime(store.path / "_ledger" / stage / f"{piece}.json", (when, when))
    if quarantined:
        store.write(f"quarantine/{piece}.jsonl", b"{}\n" * quarantined)


@pytest.fixture
def store(tmp_path) -> LocalStore:
    """Two parts imported, then 4 of 10 pieces of 100 rows, one every 20 s; the last 30 s ago."""
    store = LocalStore(tmp_path / "out")
    store.write(JOB, Request(kind="embeddings", config={}).model_dump_json().encode())
    plan(store, "rows", {"00000": 0, "00001": 0}, NOW - 300)
    commit(store, "rows", "00000", NOW - 280)
    commit(store, "rows", "00001", NOW - 270, quarantined=3)
    plan(store, "pieces", {f"p{i}": 100 for i in range(10)}, NOW - 130)
    for i in range(4):
        commit(store, "pieces", f"p{i}", NOW - 90 + 20 * i)
    return store


def test_pieces_rows_speed_and_time_left(store):
    found = standing(store, NOW)
    rows, pieces = found.stages
    assert (rows.name, rows.committed, rows.planned, rows.rows, rows.rows_per_s) == ("rows", 2, 2, None, None)
    assert (pieces.name, pieces.committed, pieces.planned, pieces.rows, pieces.planned_rows) == (
        *("pieces", 4, 10, 400, 1000),
    )
    assert pieces.rows_per_s == pytest.approx(300 / 60)  # three pieces after the first commit
    assert pieces.left_s == pytest.approx(600 / 5)
    assert (found.quarantined, found.idle_s, found.active) == (3, 30.0, True)
    assert found.committed == {"pieces": 4, "rows": 2}


def test_copied_pieces_say_nothing_of_the_speed(store):
    before = standing(store, NOW).stages[1]
    for i in range(4):
        commit(store, "reuse", f"p{i}", NOW - 90)
    pieces = next(stage for stage in standing(store, NOW).stages if stage.name == "pieces")
    assert (pieces.committed, pieces.rows) == (before.committed, before.rows)
    assert (pieces.rows_per_s, pieces.left_s) == (None, None)


def test_no_entry_of_a_piece_is_read(store, monkeypatch):
    asked = []
    read = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda self, key, *more: asked.append(key) or read(self, key, *more))
    standing(store, NOW)
    assert sorted(asked) == ["_ledger/rows/00001.json", "_plan/pieces.json", "_plan/rows.json"]


def test_commits_that_the_plan_does_not_name_do_not_count(store):
    commit(store, "pieces", "of-another-plan", NOW - 5)
    assert standing(store, NOW).stages[1].committed == 4


def test_work_that_stands_still(store):
    assert standing(store, NOW + 1700).active
    late = standing(store, NOW + 3 * 3600)
    assert (late.active, late.idle_s) == (False, 3 * 3600 + 30)
    for i in range(4, 10):  # pieces of an hour each: two hours of silence say nothing yet
        commit(store, "pieces", f"p{i}", NOW + 3600 * i)
    assert standing(store, NOW + 3600 * 11).active
    assert not standing(store, NOW + 3600 * 13).active


def test_a_plan_without_commits(tmp_path):
    store = LocalStore(tmp_path)
    plan(store, "pieces", {"a": 5, "b": 6}, NOW)
    (stage,) = standing(store, NOW + 60).stages
    assert (stage.committed, stage.rows, stage.planned_rows, stage.rows_per_s, stage.left_s) == (0, 0, 11, None, None)
    assert standing(store, NOW + 60).active
    assert standing(LocalStore(tmp_path / "none"), NOW) == ([], 0, None, False, None)


@pytest.mark.parametrize(
    ("commits", "speed"),
    [
        ([], None),
        ([(1000, 50)], 5.0),  # one, 10 s after the beginning
        ([(1000, 50), (1000, 70)], 12.0),  # two at once
        ([(1000, 50), (1010, 60), (1020, 70)], 6.5),
        ([(1000, 500), (5000, 60), (5010, 60), (5020, 60)], 6.0),  # a pause before the last ten minutes
        ([(1000, 50), (3000, 800), (5000, 1000)], 0.5),  # pieces longer than ten minutes
    ],
)
def test_recent_speed(commits, speed):
    assert recent_speed(commits, begun=990) == (None if speed is None else pytest.approx(speed))


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"pieces": {"a": "many"}}', b"[1]"])
def test_a_damaged_plan_is_named(store, damage):
    store.write("_plan/pieces.json", damage)
    with pytest.raises(DamagedError, match=r"_plan/pieces\.json: damaged plan; delete this object"):
        standing(store, NOW)


def test_what_a_person_reads(store, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert ccp("status", store.path).out.splitlines() == [
        f"unfinished  embeddings   {store.path}",
        "            rows    2 of 2 pieces",
        "            pieces  4 of 10 pieces  400 of 1,000 rows  40.0 %  5 rows/s  2.0 minutes left",
        "            3 rows quarantined; last commit 30 seconds ago",
    ]
    monkeypatch.setattr(time, "time", lambda: NOW + 3 * 3600)
    last = ccp("status", store.path).out.splitlines()[-1]
    assert last.endswith("last commit 3.0 hours ago, nobody seems to work on it: run its job again to continue")
    (row,) = ccp("status", store.path, "--json").json["status"]
    assert (row["active"], row["stages"]["pieces"]["left_s"], row["stages"]["pieces"]["rows"]) == (False, None, 400)


def test_outputs_below_an_output_and_below_a_folder(root_uri):
    store = open_store(root_uri)
    job = Request(kind="evaluation", config={}).model_dump_json().encode()
    for folder in ("run/evaluation", "run/evaluation/embeddings", "run/deep/er"):
        store.write(f"{folder}/{JOB}", job)
        store.write(f"{folder}/data/x", b"")
    places = [f"{root_uri}/run/{name}" for name in ("deep/er", "evaluation", "evaluation/embeddings")]
    assert [row["uri"] for row in ccp("status", f"{root_uri}/run", "--json").json["status"]] == places
    assert [row["uri"] for row in ccp("status", places[1], "--json").json["status"]] == places[1:]
    assert list(open_store(places[1]).folders()) == ["data", "embeddings"]
    assert list(store.folders("run")) == ["deep", "evaluation"]
    assert list(store.folders("none")) == []


@pytest.fixture
def large(moto_bucket, monkeypatch) -> Store:
    """On S3, 3 of 10 pieces committed, one with rows put aside, and the driver's word that it is 2."""
    monkeypatch.setattr("ccp_ray.standing._MANY", 9)
    store = open_store(f"{moto_bucket.uri}/out")
    store.write(JOB, Request(kind="embeddings", config={}).model_dump_json().encode())
    store.write("_plan/pieces.json", json.dumps({"pieces": {f"p{i}": 100 for i in range(10)}}).encode())
    for number in range(3):
        Ledger(store, "_ledger/pieces").commit(f"p{number}", Entry(rows=100, quarantined=number))
    Ledger(store, "_ledger/rows").commit("00000", Entry())
    store.write("quarantine/p2.jsonl", b"{}\n{}\n")
    store.write("quarantine/p9.jsonl", b"{}\n")  # of a piece that is not committed
    for attempt, done in (("20300101T000000Z-ffff", 1), ("20300102T000000Z-0000", 2)):
        word = {"time": time.time() - 90, "stage": "embed", "done": done, "rows_per_s": 5.0}
        store.write(f"_telemetry/{attempt}/rows-00000.jsonl", json.dumps(word).encode())
    return store


def test_of_many_pieces_on_s3_the_drivers_word_is_taken_unless_they_are_to_be_listed(large, monkeypatch):
    listed = []
    lists = type(large).list
    with monkeypatch.context() as patch:
        patch.setattr(type(large), "list", lambda self, prefix="": listed.append(prefix) or lists(self, prefix))
        found = standing(large)
    assert not any("_ledger/pieces".startswith(prefix) for prefix in listed)
    pieces = next(stage for stage in found.stages if stage.name == "pieces")
    assert (pieces.committed, pieces.planned, pieces.rows, pieces.planned_rows) == (2, 10, 200, 1000)
    assert (pieces.rows_per_s, pieces.left_s) == (5.0, 160.0)
    assert (found.quarantined, found.active) == (2, True)
    assert found.noted_s == pytest.approx(90, abs=20)
    assert next(stage for stage in found.stages if stage.name == "rows").committed == 1
    exact = standing(large, exact=True)
    assert next(stage for stage in exact.stages if stage.name == "pieces").committed == 3
    assert (exact.quarantined, exact.noted_s) == (2, None)
    said = ccp("status", large.root).out.splitlines()[-1]
    assert "; by the job's own word of 1.5 minutes ago (--exact lists every piece); last commit " in said
    assert "2 of 10 pieces" in ccp("status", large.root).out
    assert "3 of 10 pieces" in ccp("status", large.root, "--exact").out


def test_a_word_that_was_damaged_is_named(large):
    large.write("_telemetry/20300103T000000Z-0000/rows-00000.jsonl", b'{"stage": "embed"}')
    with pytest.raises(DamagedError, match=r"rows-00000\.jsonl: damaged metrics; delete this object"):
        standing(large)
