"""How far a training is, from live metrics as the driver leaves them."""

from __future__ import annotations

import json

import pytest
from command_line import ccp

from ccp_ray.artifact import JOB, Request
from ccp_ray.errors import DamagedError
from ccp_ray.storage import Store, open_store
from ccp_ray.training_standing import training_standing

NOW = 1_900_000_000.0
ROW = {"steps": 200, "contrastive": 3.25, "accuracy": 0.5, "tokens_per_s": 1234.5}
PARTS = {"step_seconds": {"data": 0.5, "forward_backward": 1.0, "other": 0.5}}


def write(store: Store, attempt: str, number: int, *rows: dict) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    store.write(f"_telemetry/{attempt}/rows-{number:05d}.jsonl", lines.encode())
    store.write(f"_telemetry/{attempt}/events.out.tfevents.1.{number:05d}", b"x")


@pytest.fixture
def store(root_uri) -> Store:
    """An attempt that came to step 90, and one that goes on from 80 and is at 100, half a minute ago."""
    made = open_store(f"{root_uri}/encoder")
    made.write(JOB, Request(kind="encoder", config={}).model_dump_json().encode())
    write(made, "20300101T000000Z-aaaa", 0, {"time": NOW - 900, "step": 90} | ROW | PARTS)
    write(made, "20300101T010000Z-0000", 0, {"time": NOW - 60, "step": 90} | ROW | PARTS)
    last = {"time": NOW - 30, "step": 100} | ROW | PARTS
    write(made, "20300101T010000Z-0000", 1, last, {"time": NOW - 29, "step": 100, "probe": {}})
    write(made, "20300101T010000Z-0000", 2, {"time": NOW - 28, "step": 100, "probe": {}})
    return made


def test_the_last_row_of_the_last_attempt(store):
    now = training_standing(store, NOW)
    assert now is not None
    assert (now.step, now.steps, now.loss, now.accuracy, now.tokens_per_s) == (100, 200, 3.25, 0.5, 1234.5)
    assert (now.left_s, now.age_s) == (100 * 2.0 - 30, 30.0)
    assert training_standing(store, NOW + 1e6).left_s == 0.0


def test_an_attempt_that_has_not_trained_yet(store):
    write(store, "20300101T020000Z-0000", 0, {"time": NOW, "step": 100, "probe": {}})
    assert training_standing(store, NOW).step == 100


def test_no_training_and_damage(tmp_path):
    store = open_store(str(tmp_path))
    assert training_standing(store, NOW) is None
    store.write("_telemetry/x/rows-00000.jsonl", b'{"step": 1')
    with pytest.raises(DamagedError, match=r"rows-00000\.jsonl: damaged metrics; delete this object"):
        training_standing(store, NOW)


def test_what_a_person_reads(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    store.write(JOB, Request(kind="encoder", config={}).model_dump_json().encode())
    store.write("_ledger/checkpoints/step-000000100.json", b"{}")
    write(store, "20300101T010000Z-0000", 1, {"time": NOW - 30, "step": 100} | ROW | PARTS)
    monkeypatch.setattr("ccp_ray.training_standing.time.time", lambda: NOW)
    lines = ccp("status", tmp_path).out.splitlines()
    assert lines[2].strip().startswith("step 100 of 200, loss 3.250, 1,234 tokens/s")
    assert lines[2].endswith("(30 seconds ago)")
    (row,) = ccp("status", tmp_path, "--json").json["status"]
    assert (row["training"]["step"], row["training"]["loss"]) == (100, 3.25)
