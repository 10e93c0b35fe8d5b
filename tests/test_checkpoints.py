"""Checkpoints: uploads beside the training, the commit last, what is kept, and what a damaged one leads to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks

from ccp_ray.checkpoints import Checkpoints, kept
from ccp_ray.errors import DamagedError, StoreError, UsageError
from ccp_ray.storage import LocalStore

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Engine(SimpleNamespace):
    """What checkpoints see of a DeepSpeed engine under ZeRO 0 in fp32: a module and torch's AdamW."""

    def __init__(self, width: int = 3, steps: int = 0) -> None:
        torch.manual_seed(0)
        module = torch.nn.Linear(width, 2)
        super().__init__(module=module, optimizer=torch.optim.AdamW(module.parameters(), lr=0.1), dp_world_size=1)
        self.train(steps)

    def train(self, steps: int) -> None:
        for step in range(steps):
            self.optimizer.zero_grad()
            self.module(torch.full((4, self.module.in_features), 1.0 + step)).square().sum().backward()
            self.optimizer.step()

    def zero_optimization_stage(self) -> int:
        return 0

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])


class SlowStore(LocalStore):
    """Uploads wait until they are let through, and then fail if they are told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate, self.failing, self.uploads = threading.Event(), False, 0

    def upload(self, path: Path, key: str) -> None:
        assert self.gate.wait(60)
        if self.failing:
            raise StoreError(f"cannot write {key}: the disk is full")
        self.uploads += 1
        super().upload(path, key)


def checkpoints(folder: Path, keep: int = 2, every: int | None = None, **options: Any) -> Checkpoints:
    return Checkpoints(str(folder), keep, every, **options)


def slow(folder: Path) -> tuple[Checkpoints, SlowStore]:
    made, store = checkpoints(folder), SlowStore(folder)
    made.store = made._upload.store = made.ledger.store = store
    return made, store


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (folder / "_ledger/checkpoints").glob("*.json"))


def save_steps(made: Checkpoints, engine: Engine, *steps: int) -> None:
    for step in steps:
        engine.train(1)
        made.save(engine, step, {"bank": torch.arange(step)}, {"rows": [{"step": step}]})
    made.settle()


@pytest.mark.usefixtures("alone")
def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    engine, other = Engine(), Engine()
    made = checkpoints(tmp_path)
    assert made.commit_lag_s is None
    save_steps(made, engine, 1, 2, 3)
    assert 0 < made.commit_lag_s < 60
    restored = checkpoints(tmp_path).restore(other)
    assert restored is not None
    assert (restored.step, restored.progress) == (3, {"rows": [{"step": 3}]})
    assert torch.equal(restored.state["bank"], torch.arange(3))
    for one in (engine, other):
        one.train(2)
    assert torch.equal(engine.weights(), other.weights())
    assert checkpoints(tmp_path / "nothing").restore(Engine()) is None


@pytest.mark.usefixtures("alone")
def test_training_goes_on_beside_a_slow_upload_and_does_not_leak_into_it(tmp_path: Path) -> None:
    made, store = slow(tmp_path)
    engine = Engine(steps=1)
    made.save(engine, 1, {}, {})
    before = engine.weights()
    engine.train(3)
    assert made.saving
    assert made.uploading
    assert steps_in(tmp_path) == []  # nothing is committed before all of it is there
    store.gate.set()
    made.settle()
    assert not made.saving
    assert steps_in(tmp_path) == [1]
    other = Engine()
    checkpoints(tmp_path).restore(other)
    assert torch.equal(other.weights(), before)


@pytest.mark.usefixtures("alone")
def test_at_most_one_upload_is_in_flight(tmp_path: Path) -> None:
    made, store = slow(tmp_path)
    engine = Engine(steps=1)
    made.save(engine, 1, {}, {})
    threading.Timer(0.3, store.gate.set).start()
    started = time.monotonic()
    made.save(engine, 2, {}, {})  # waits for the first, and commits it
    assert time.monotonic() - started > 0.2
    assert steps_in(tmp_path) == [1]
    made.settle()
    assert steps_in(tmp_path) == [1, 2]


@pytest.mark.usefixtures("alone")
def test_a_failed_upload_is_told_at_the_next_save_and_the_last_good_one_stays(tmp_path: Path) -> None:
    made, store = slow(tmp_path)
    store.gate.set()
    engine = Engine(steps=1)
    made.save(engine, 1, {}, {})
    made.settle()
    store.failing = True
    made.save(engine, 2, {}, {})
    with pytest.raises(StoreError, match=r"checkpoint of step 2: upload from worker 0 failed: .*the disk is full"):
        made.save(engine, 3, {}, {})
    assert steps_in(tmp_path) == [1]
    restored = checkpoints(tmp_path).restore(Engine())
    assert restored is not None
    assert restored.step == 1


def _one_of_two_fails(rank: int, world: int, folder: str) -> list[str]:
    made, store = slow(Path(folder))
    store.gate.set()
    engine = Engine(steps=1)
    engine.dp_world_size = world
    store.failing = rank == 1
    told = []
    made.save(engine, 1, {}, {})
    try:
        made.settle()
    except StoreError as error:
        told.append(str(error))
    return told


def test_all_ranks_hear_of_one_ranks_failure(tmp_path: Path) -> None:
    told = run_ranks(2, _one_of_two_fails, str(tmp_path))
    assert told[0] == told[1]
    assert "upload from worker 1 failed" in told[0][0]
    assert steps_in(tmp_path) == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("damage", ["altered", "shorter", "missing", "all missing", "entry"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before_and_named(tmp_path: Path, damage: str) -> None:
    save_steps(checkpoints(tmp_path), Engine(), 1, 2)
    files = sorted((tmp_path / "_checkpoints/step-000000002").iterdir())
    if damage == "entry":
        files, damage = [tmp_path / "_ledger/checkpoints/step-000000002.json"], "shorter"
    for path in files:
        data = path.read_bytes()
        if damage.endswith("missing"):
            path.unlink()
        else:
            path.write_bytes(data[:-1] + (b"" if damage == "shorter" else bytes([data[-1] ^ 1])))
        if damage != "all missing":
            break
    told: list[str] = []
    made = checkpoints(tmp_path, tell=told.append)
    restored = made.restore(Engine())
    assert restored is not None
    assert restored.step == 1
    assert len(told) == 1
    assert "checkpoint step-000000002 is damaged" in told[0]
    assert any(path.name in told[0] for path in files)
    assert steps_in(tmp_path) == [1]
    assert not files[0].exists()
    save_steps(made, Engine(steps=1), 2)  # the step can be committed again
    assert steps_in(tmp_path) == [1, 2]


@pytest.mark.usefixtures("alone")
def test_with_no_sound_checkpoint_left_nothing_starts_from_the_beginning_or_is_deleted(tmp_path: Path) -> None:
    save_steps(checkpoints(tmp_path), Engine(), 1, 2)
    for folder in (tmp_path / "_checkpoints").iterdir():
        next(folder.glob("*.safetensors")).write_bytes(b"")
    told: list[str] = []
    with pytest.raises(DamagedError, match=r"none of 2 checkpoints is sound; bring their files back"):
        checkpoints(tmp_path, tell=told.append).restore(Engine())
    assert ["step-000000002" in told[0], "step-000000001" in told[1]] == [True, True]
    assert steps_in(tmp_path) == [1, 2]


@pytest.mark.usefixtures("alone")
def test_leftovers_of_a_cut_off_save_are_deleted(tmp_path: Path) -> None:
    save_steps(checkpoints(tmp_path), Engine(), 1)
    leftover = tmp_path / "_checkpoints/step-000000002/zero0-4-rank-3.safetensors"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    checkpoints(tmp_path).restore(Engine())
    assert not leftover.exists()
    assert steps_in(tmp_path) == [1]


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_of_another_encoder_is_refused(tmp_path: Path) -> None:
    save_steps(checkpoints(tmp_path), Engine(), 1)
    with pytest.raises(UsageError, match=r"step-000000001: .* another encoder: weight is \[2, 3\] in it and \[2, 5\]"):
        checkpoints(tmp_path).restore(Engine(width=5))
    assert steps_in(tmp_path) == [1]


@pytest.mark.usefixtures("alone")
def test_there_is_no_pickle_in_a_checkpoint(tmp_path: Path) -> None:
    save_steps(checkpoints(tmp_path), Engine(), 1)
    for path in (tmp_path / "_checkpoints").rglob("*.*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            size = int.from_bytes(path.read_bytes()[:8], "little")  # safetensors: a length and a JSON header
            json.loads(path.read_bytes()[8 : 8 + size])


@pytest.mark.usefixtures("alone")
def test_old_ones_go_but_every_nth_stays(tmp_path: Path) -> None:
    save_steps(checkpoints(tmp_path, keep=2, every=4), Engine(), *range(1, 12))
    assert steps_in(tmp_path) == [4, 8, 10, 11]
    assert {path.name for path in (tmp_path / "_checkpoints").iterdir()} == {
        f"step-{step:09d}" for step in (4, 8, 10, 11)
    }


@given(st.lists(st.integers(1, 60), min_size=1, unique=True), st.integers(1, 5), st.none() | st.integers(1, 12))
def test_keeping_while_saving_is_keeping_at_the_end(taken: list[int], last: int, every: int | None) -> None:
    """Pruned after each save, as it is done, what is left is what one rule over all steps says."""
    there: set[int] = set()
    for step in sorted(taken):
        there = kept(sorted(there | {step}), last, every)
    ordered = sorted(taken)
    oracle = {step for place, step in enumerate(ordered) if len(ordered) - place <= last}
    oracle |= {step for step in ordered if every is not None and step / every == step // every}
    assert there == oracle
