"""Live metrics: event files read back by TensorBoard itself, JSON lines, and what Ray's agent serves to Prometheus."""

from __future__ import annotations

import itertools
import json
import os
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ccp_ray import process_metrics
from ccp_ray.errors import StoreError
from ccp_ray.storage import LocalStore, open_store
from ccp_ray.telemetry import Point, Telemetry, points

TRAINING = {"step": 10, "loss": 4.25, "accuracy": 0.5, "tokens_per_s": 1e6}
MEASURED = {"std": 0.5, "effective_rank": 9.0, "alignment": 0.25, "uniformity": -2.0, "leakage": 0.125}
PROBE = {
    "step": 20,
    "probe": {"de": MEASURED, "en": MEASURED | {"std": 0.75}},
    "problems": ["collapse of de at step 20"],
}


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def telemetry(tmp_path, ray_local) -> Telemetry:
    return Telemetry(str(tmp_path / "out"), Clock())


def written(one: Telemetry) -> list[str]:
    return [info.key.rpartition("/")[2] for info in one.store.list("_telemetry/")]


def lines(one: Telemetry) -> list[dict]:
    keys = [info.key for info in one.store.list("_telemetry/") if info.key.endswith(".jsonl")]
    return [json.loads(line) for key in keys for line in one.store.read(key).splitlines()]


def test_the_numbers_of_rows():
    assert list(points(TRAINING)) == [
        Point("train", "step", None, 10.0),
        Point("train", "loss", None, 4.25),
        Point("train", "accuracy", None, 0.5),
        Point("train", "tokens_per_s", None, 1e6),
    ]
    probed = list(points(PROBE))
    assert len(probed) == 2 * len(MEASURED) + 1
    assert Point("probe", "std", "en", 0.75) in probed
    assert probed[-1] == Point("monitor", "problems", None, 1.0)
    assert list(points({"step": 0, "probe": {}})) == [Point("monitor", "problems", None, 0.0)]
    parts = {"step": 1, "loss_by_language": {"de": 4.0}, "step_seconds": {"data": 0.5, "sync": 0.25}}
    assert list(points(parts))[1:] == [
        Point("language", "loss", "de", 4.0),
        Point("step", "seconds", "data", 0.5),
        Point("step", "seconds", "sync", 0.25),
    ]
    pieces = {"step": 3, "stage": "tokens", "done": 3, "rows_per_s": 7.5}
    assert list(points(pieces)) == [
        Point("pieces", "done", "tokens", 3.0),
        Point("pieces", "rows_per_s", "tokens", 7.5),
    ]


def test_a_number_that_the_catalog_lacks_is_told_once_and_still_written(telemetry, capsys):
    for step in (1, 2):
        telemetry.add({"step": step, "nonsense": 1.0})
    told = "telemetry: ccp_ray_train_nonsense is not in the catalog of metrics; it is written to files alone\n"
    assert capsys.readouterr().err == told
    telemetry.flush()
    assert [row["nonsense"] for row in lines(telemetry)] == [1.0, 1.0]


def test_tensorboard_reads_what_was_written_in_several_flushes(root_uri, ray_local, tmp_path):
    clock = Clock()
    with Telemetry(f"{root_uri}/encoder", clock) as one:
        one.add(TRAINING)
        one.flush()
        clock.now += 7.5
        one.add(TRAINING | {"step": 20, "loss": 4.0})
        one.add(PROBE)
    store, folder = open_store(f"{root_uri}/encoder"), tmp_path / "board"
    for info in store.list("_telemetry/"):
        store.download(info.key, folder / Path(info.key).name)
    board = EventAccumulator(str(folder))
    board.Reload()
    assert [(e.step, e.value, e.wall_time) for e in board.Scalars("train/loss")] == [
        (10, 4.25, 1.8e9), (20, 4.0, 1.8e9 + 7.5),
    ]  # fmt: skip
    assert [(e.step, e.value) for e in board.Scalars("std/en")] == [(20, 0.75)]
    assert [(e.step, e.value) for e in board.Scalars("leakage/de")] == [(20, 0.125)]
    assert [e.value for e in board.Scalars("monitor/problems")] == [1]
    (said,) = board.Tensors("problems/text_summary")
    assert said.tensor_proto.string_val[0].decode() == PROBE["problems"][0]
    assert lines(one) == [
        {"time": 1.8e9, **TRAINING},
        {"time": 1.8e9 + 7.5, **TRAINING, "step": 20, "loss": 4.0},
        {"time": 1.8e9 + 7.5, **PROBE},
    ]


def test_no_file_is_written_twice_and_none_is_empty(telemetry):
    telemetry.flush()
    assert written(telemetry) == []
    for step in range(3):
        telemetry.add(TRAINING | {"step": step})
        before = {info.key: telemetry.store.read(info.key) for info in telemetry.store.list()}
        telemetry.flush()
        assert {key: telemetry.store.read(key) for key in before} == before
    assert written(telemetry) == [f"events.out.tfevents.1800000000.0000{n}" for n in range(3)] + [
        f"rows-0000{n}.jsonl" for n in range(3)
    ]


def test_flushes_grow_apart(telemetry):
    """Ten seconds at first, then a hundredth of the time so far, ten minutes at most."""
    flushes, start = [], telemetry.clock.now
    for second in range(5, 80_000, 5):
        telemetry.clock.now = start + second
        telemetry.add({"step": second})
        telemetry.flush_if_due()
        if not telemetry._waiting:
            flushes.append(second)
    gaps = [b - a for a, b in itertools.pairwise(flushes)]
    assert (flushes[0], gaps[0], max(gaps), gaps[-1]) == (10, 10, 600, 600)
    at = dict(zip(flushes[1:], gaps, strict=True))
    assert all(at[flush] == pytest.approx(flush / 100, abs=10) for flush in at if 1000 < flush < 60_000)
    assert len(lines(telemetry)) == flushes[-1] // 5


def test_a_store_that_fails_is_told_of_and_asked_again(telemetry, monkeypatch, capsys):
    telemetry.add(TRAINING)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "write", _full)
        telemetry.flush()
    assert "telemetry: 1 rows wait, cannot write: the disk is full" in capsys.readouterr().err
    telemetry.add(PROBE)
    telemetry.flush()
    assert [row["step"] for row in lines(telemetry)] == [10, 20]


def _full(*_: object) -> None:
    raise StoreError("cannot write: the disk is full")


def test_attempts_do_not_meet(tmp_path, ray_local):
    clock = Clock()
    for step in (1, 2):
        with Telemetry(str(tmp_path), clock) as one:
            one.add({"step": step, "loss": 1.0})
    assert sorted(row["step"] for row in lines(one)) == [1, 2]
    assert len(list((tmp_path / "_telemetry").iterdir())) == 2


def test_ray_serves_the_last_numbers_to_prometheus(telemetry):
    import ray

    telemetry.add(TRAINING)
    telemetry.add(PROBE)
    telemetry.add(TRAINING | {"loss": 3.5, "loss_by_language": {"en": 2.5}, "step_seconds": {"data": 0.125}})
    telemetry.add({"step": 3, "stage": "tokens", "done": 3, "planned": 9, "rows": 30, "rows_per_s": 7.5})

    def counted_elsewhere(run: str) -> None:
        process_metrics.count("ccp_ray_store_errors", ERROR)
        process_metrics.observe_lag(run, "tokens", 0.25)

    ray.get([ray.remote(counted_elsewhere).remote(telemetry.run) for _ in range(3)])
    process_metrics.count("ccp_ray_store_errors", ERROR)
    run = {"run": telemetry.run}
    wanted = {
        ("ray_ccp_ray_train_loss", *run.items()): 3.5,
        ("ray_ccp_ray_language_loss", *(run | {"language": "en"}).items()): 2.5,
        ("ray_ccp_ray_step_seconds", *(run | {"part": "data"}).items()): 0.125,
        ("ray_ccp_ray_probe_std", *(run | {"language": "en"}).items()): 0.75,
        ("ray_ccp_ray_monitor_problems", *run.items()): 1.0,
        ("ray_ccp_ray_pieces_rows_per_s", *(run | {"stage": "tokens"}).items()): 7.5,
        ("ray_ccp_ray_store_errors_total", *ERROR.items()): 4.0,  # of two or more processes
        ("ray_ccp_ray_commit_lag_seconds_count", *(run | {"stage": "tokens"}).items()): 3.0,
        ("ray_ccp_ray_commit_lag_seconds_bucket", *(run | {"stage": "tokens", "le": "0.1"}).items()): 0.0,
        ("ray_ccp_ray_commit_lag_seconds_bucket", *(run | {"stage": "tokens", "le": "0.3"}).items()): 3.0,
    }
    port = ray.nodes()[0]["MetricsExportPort"]
    give_up, found = time.monotonic() + 60, {}
    while found != wanted and time.monotonic() < give_up:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            found |= sums(reply.read().decode(), wanted)  # processes report in turn, and a gauge is served for a while
        time.sleep(0.5)
    assert found == wanted


ERROR = {"operation": "PutObject", "code": f"Test{os.getpid()}"}


def sums(served: str, wanted: dict) -> dict:
    """Of the wanted series, over all processes, as Prometheus' own parser reads them."""
    found: dict = {}
    samples = [sample for family in text_string_to_metric_families(served) for sample in family.samples]
    for name, *tags in wanted:
        values = [s.value for s in samples if s.name == name and s.labels.items() >= dict(tags).items()]
        if values:
            found[(name, *tags)] = sum(values)
    return found
