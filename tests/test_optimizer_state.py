"""The engine's state through any world size and ZeRO stage: not a bit changes, and training goes on undisturbed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import training_ranks
from ranks import run_ranks
from safetensors.torch import save_file

from ccp_ray.engine_state import MASTER, MOMENTS, Piece
from ccp_ray.errors import DataError, UsageError
from ccp_ray.optimizer_state import SavedPieces, check_shapes, restore, snapshot
from ccp_ray.training_step import TrainingStep

pytestmark = pytest.mark.timeout(400)
STAGES = (0, 1, 2, 3)
Saved = tuple[dict[str, Any], list[dict[str, torch.Tensor]]]


def write(folder: Path, saved: Saved) -> list[Path]:
    """The ranks' files of a snapshot."""
    folder.mkdir(parents=True)
    paths = [folder / f"{rank}.safetensors" for rank in range(len(saved[1]))]
    for path, tensors in zip(paths, saved[1], strict=True):
        save_file(tensors, path)
    return paths


def whole(saved: Saved) -> dict[tuple[str, str], torch.Tensor]:
    """Every parameter's master weights and moments, put together by hand; fails where elements are there twice."""
    out: dict[tuple[str, str], torch.Tensor] = {}
    for tensors in saved[1]:
        for stored, values in tensors.items():
            name, start, key = stored.rsplit(":", 2)
            size = int(torch.tensor(saved[0]["shapes"][name]).prod())
            flat = out.setdefault((name, key), torch.full((size,), torch.nan))
            place = flat[int(start) : int(start) + len(values)]
            assert place.isnan().all()
            place.copy_(values)
    return out


def assert_same_bits(one: Saved, other: Saved) -> None:
    left, right = whole(one), whole(other)
    assert left.keys() == right.keys()
    assert {key for _, key in left} == {MASTER, *MOMENTS}
    for name, values in left.items():
        assert not values.isnan().any(), name
        assert torch.equal(values, right[name]), name
    assert one[0]["adam_step"] == other[0]["adam_step"]


def _training(rank: int, world: int, stage: int, choice: Mapping[str, Any] | None = None) -> TrainingStep:
    """Steps whose only state is the engine's: neither banks nor running statistics. choice: keys of deepspeed."""
    sharding = {"zero_stage": stage, **(choice or {})}
    if sharding.get("precision") == "fp16":
        training_ranks.allow_fp16()
    plain = {"projection": 7, "bank": {"size": 0}, "norm": "symmetric"}  # 7: no world size divides it
    return training_ranks.training_step(training_ranks.config(deepspeed=sharding, **plain), rank, world)


def _losses(step: TrainingStep, numbers: Iterable[int]) -> list[float]:
    return [step.run(number)["loss"] for number in numbers]


def _train_and_save(
    rank: int, world: int, stages: Sequence[int], choice: dict[str, Any], halves: tuple[int, int]
) -> Any:
    """For each stage: losses, the snapshot in the middle and at the end, the module's weights at the end."""
    results = {}
    for stage in stages:
        step = _training(rank, world, stage, choice)
        first = _losses(step, range(halves[0]))
        middle = snapshot(step.engine)
        second = _losses(step, range(halves[0], sum(halves)))
        results[stage] = (first + second, middle, snapshot(step.engine), training_ranks.weights(step))
    return results


def _go_on(
    rank: int, world: int, stages: Sequence[int], choice: dict[str, Any], saved: Mapping[int, Any], steps: range
) -> Any:
    """The same from each stage's (facts, files): losses, the snapshot at the end, the module's weights."""
    results = {}
    for stage in stages:
        step = _training(rank, world, stage, choice)
        restore(step.engine, *saved[stage])
        losses = _losses(step, steps)
        results[stage] = (losses, snapshot(step.engine), training_ranks.weights(step))
    return results


def _walk(rank: int, world: int, stages: Sequence[int], facts: Any, files: Sequence[Path], folder: Path) -> Any:
    """Restore and save under one stage after the other, each from the files of the one before.

    Every other stage that can has its optimiser on the host.
    """
    saved = []
    for number, stage in enumerate(stages):
        engine = _training(rank, world, stage, {"offload_optimizer": stage > 0 and number % 2 == 0}).engine
        restore(engine, facts, files)
        tensors, facts = snapshot(engine)
        save_file(tensors, folder / f"{world}-{len(saved)}-{rank}")
        dist.barrier()
        files = [folder / f"{world}-{len(saved)}-{other}" for other in range(world)]
        saved.append((tensors, facts))
    return saved


def gathered(snapshots: Sequence[tuple[dict[str, torch.Tensor], dict[str, Any]]]) -> Saved:
    """All ranks' snapshots as one."""
    return snapshots[0][1], [tensors for tensors, _ in snapshots]


LOW = {
    "bf16": ({"precision": "bf16"}, STAGES, 2),
    "bf16, offload": ({"precision": "bf16", "offload_optimizer": True}, STAGES[1:], 2),
    "fp16": ({"precision": "fp16"}, STAGES[1:], 8),
}


@pytest.mark.parametrize("name", LOW)
def test_in_16_bits_a_restored_run_repeats_the_undisturbed_one_bit_for_bit(tmp_path: Path, name: str) -> None:
    """With fp32 master weights, and with fp16's loss scale; tests/chaos/test_resume.py has fp32."""
    choice, stages, half = LOW[name]
    undisturbed = run_ranks(2, _train_and_save, stages, choice, (half, half))
    saved = {}
    for stage in stages:
        middle = gathered([rank[stage][1] for rank in undisturbed])
        saved[stage] = (middle[0], write(tmp_path / str(stage), middle))
        scale = middle[0]["loss_scale"].get("cur_scale")
        assert (scale is not None and scale < 2**16) if name == "fp16" else scale is None  # a fresh engine has 2^16
    resumed = run_ranks(2, _go_on, stages, choice, saved, range(half, 2 * half))
    for stage in stages:
        losses = undisturbed[0][stage][0]
        assert losses[half:] == resumed[0][stage][0], stage
        assert len(set(losses)) == 2 * half  # it learns, so the losses do not agree by standing still
        ends = gathered([rank[stage][2] for rank in undisturbed]), gathered([rank[stage][1] for rank in resumed])
        assert_same_bits(*ends)
        assert ends[0][0]["loss_scale"] == ends[1][0]["loss_scale"]
        for one, other in zip(undisturbed, resumed, strict=True):
            for parameter, weights in one[stage][3].items():
                assert torch.equal(weights, other[stage][2][parameter]), (stage, parameter)


def test_a_walk_through_world_sizes_and_every_pair_of_stages_changes_no_bit(tmp_path: Path) -> None:
    original = saved = gathered([rank[1][1] for rank in run_ranks(2, _train_and_save, [1], {}, (2, 0))])
    walks = {4: [0, 1, 2, 3, 0], 1: [2, 0, 3, 2], 2: [1, 3, 1, 0]}
    steps = [1, *walks[4], *walks[1], *walks[2]]
    assert {*itertools.pairwise(steps)} >= {(a, b) for a in STAGES for b in STAGES if a != b}
    for world, stages in walks.items():
        files = write(tmp_path / str(world), saved)
        walked = run_ranks(world, _walk, stages, saved[0], files, tmp_path)
        for number in range(len(stages)):
            saved = gathered([rank[number] for rank in walked])
            assert_same_bits(original, saved)


def test_another_encoder_is_named_with_its_first_difference() -> None:
    with pytest.raises(UsageError, match=r"of another encoder: b is \[2\] in it and \[3\] in this run \(2 param"):
        check_shapes({"a": [1], "b": [2]}, {"a": [1], "b": [3], "c": [1]})
    with pytest.raises(UsageError, match="c is not there in it"):
        check_shapes({"a": [1]}, {"a": [1], "c": [1]})
    check_shapes({"a": [1]}, {"a": [1]})


def test_pieces_are_cut_from_whatever_files_there_are(tmp_path: Path) -> None:
    values = torch.arange(10.0)
    save_file({"x:0:master": values[:3].clone(), "x:7:master": values[7:].clone()}, tmp_path / "0")
    save_file({"x:3:master": values[3:7].clone()}, tmp_path / "1")
    saved = SavedPieces([tmp_path / "0", tmp_path / "1"])
    parameter = torch.nn.Parameter(values)
    for start in range(10):
        for size in range(1, 11 - start):
            found = saved.read(Piece("x", parameter, start, size), MASTER)
            assert found is not None
            assert torch.equal(found, values[start : start + size])
    assert saved.read(Piece("x", parameter, 0, 10), "exp_avg") is None
    with pytest.raises(DataError, match=r"has 6 of 10 elements of x \(master\)"):
        SavedPieces([tmp_path / "0"]).read(Piece("x", parameter, 0, 10), MASTER)
