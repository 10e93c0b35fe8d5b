"""Every combination of ZeRO stage, precision, offload and activation checkpointing trains, or is refused by name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_models
import torch
import torch.distributed as dist
from token_corpus import reader
from worlds import run_world

from ccp_ray.combinations import IMPOSSIBLE, IMPOSSIBLE_BY_GPU
from ccp_ray.config import build_config
from ccp_ray.encoder import Encoder, new_model
from ccp_ray.errors import UsageError
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.pretrain_job import plan_workers

pytestmark = pytest.mark.timeout(600)

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "groups_per_step": 4,
    "pairs_per_group": 8,
    "max_tokens": 20,
    "chunks": 2,
    "projection": 8,
    "bank": {"size": 32, "warmup_steps": 1},
    "mlm": {"sentences": 4},
    "optimizer": {"lr": 1e-3, "warmup_steps": 2, "clip": 0.5},
}


class Case(NamedTuple):
    """Some steps of training with these DeepSpeed settings."""

    folder: Path
    deepspeed: dict[str, Any]
    steps: int = 2
    head_only_steps: int = 0

    def config(self) -> PretrainConfig:
        optimizer = SMALL["optimizer"] | {"head_only_steps": self.head_only_steps}
        return build_config(PretrainConfig, SMALL | {"steps": 20, "optimizer": optimizer, "deepspeed": self.deepspeed})


class Trained(NamedTuple):
    """What a rank saw. weights: what is exported; working: what the model computes with."""

    rows: list[dict[str, float]]
    weights: dict[str, torch.Tensor]
    working: dict[str, torch.Tensor]
    untrained: dict[str, torch.Tensor]


def train(case: Case) -> Trained:
    """Runs in each process of a world."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    from ccp_ray.engine import full_precision_weights
    from ccp_ray.training_step import TrainingStep

    get_accelerator().is_fp16_supported = lambda: True  # torch emulates it on CPUs: enough to see that it trains
    tokenizer = tiny_models.tokenizer()
    encoder = Encoder(new_model(tiny_models.architecture(dropout=0.1), tokenizer, 0).train(), tokenizer, "mean")
    untrained = {f"model.{name}": p.detach().clone() for name, p in encoder.model.named_parameters()}
    ranks = (dist.get_rank(), dist.get_world_size())
    step = TrainingStep(case.config(), reader(case.folder / f"corpus-{ranks[0]}"), encoder, ranks, CPU)
    rows = [step.run(number) for number in range(case.steps)]
    named = dict(step.engine.module.named_parameters())
    sharded = case.deepspeed["zero_stage"] == 3
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=sharded):
        working = {name: p.detach().clone() for name, p in named.items()}
    return Trained(rows, full_precision_weights(step.engine), working, untrained)


def allowed() -> list[dict[str, Any]]:
    """All that the table does not refuse on a GPU: offload and fp16 run on CPUs here to be seen running."""
    keys = ("zero_stage", "precision", "offload_optimizer", "activation_checkpointing")
    values = itertools.product((0, 1, 2, 3), ("fp32", "bf16", "fp16"), (False, True), (False, True))
    choices = [dict(zip(keys, chosen, strict=True)) for chosen in values]
    return [choice for choice in choices if choice["zero_stage"] or not choice["offload_optimizer"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("combinations")


@pytest.fixture(scope="module")
def two_workers(folder: Path) -> dict[str, list[Trained]]:
    """All cases in one start of two processes."""
    cases = {str(choice): Case(folder, choice) for choice in allowed()}
    for stage in range(4):
        cases[f"long {stage}"] = Case(folder, {"zero_stage": stage}, steps=20)
        cases[f"head {stage}"] = Case(folder, {"zero_stage": stage}, steps=8, head_only_steps=4)
        cases[f"frozen {stage}"] = Case(folder, {"zero_stage": stage, "precision": "bf16"}, 3, head_only_steps=3)
        cases[f"fp16 {stage}"] = Case(folder, {"zero_stage": stage, "precision": "fp16"}, steps=20)
    answers = run_world(2, train, list(cases.values()), folder)
    for name, ranks in zip(cases, answers, strict=True):
        for answer in ranks:
            assert isinstance(answer, Trained), f"{name}: {answer}"
    return dict(zip(cases, answers, strict=True))


def losses(trained: Trained) -> list[float]:
    return [row["loss"] for row in trained.rows]


def test_zero_stages_give_the_same_losses_over_twenty_steps(two_workers):
    reference = losses(two_workers["long 0"][0])
    assert len(reference) == 20
    for stage in (1, 2, 3):
        assert losses(two_workers[f"long {stage}"][0]) == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("choice", allowed(), ids=str)
def test_every_allowed_combination_trains_and_exports_the_master_weights(two_workers, choice):
    reference = two_workers[str(choice | {"zero_stage": 0, "precision": "fp32", "offload_optimizer": False})][0]
    found, other = two_workers[str(choice)]
    assert losses(found) == losses(other)
    low = choice["precision"] != "fp32"
    assert losses(found) == pytest.approx(losses(reference), rel=0.01 if low else 1e-5)
    assert found.weights.keys() == found.working.keys()
    assert not other.weights
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[choice["precision"]]
    for name, weight in found.weights.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight.to(dtype), found.working[name]), name  # the model works with their rounding
        assert torch.equal(found.working[name], other.working[name]), name
        torch.testing.assert_close(weight, reference.weights[name], rtol=0, atol=4e-3 if low else 1e-6)
    rounded = all(torch.equal(w, w.to(dtype).float()) for w in found.weights.values())
    assert rounded == (not low or all(row["skipped"] for row in found.rows))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_fp16_lowers_its_loss_scale_until_steps_are_made(two_workers, stage):
    rows = two_workers[f"fp16 {stage}"][0].rows
    assert {row["skipped"] for row in rows} <= {0.0, 1.0}
    assert rows[-1]["skipped"] == 0.0
    assert rows[-1]["mlm"] < rows[0]["mlm"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_while_the_head_learns_alone_the_encoder_stays_under_every_stage(two_workers, stage):
    frozen = two_workers[f"frozen {stage}"][0]
    for name, weight in frozen.untrained.items():
        assert torch.equal(frozen.working[name], weight.bfloat16()), name
    assert losses(two_workers[f"head {stage}"][0]) == pytest.approx(losses(two_workers["head 0"][0]), rel=1e-4)
    learnt = two_workers[f"head {stage}"][0]
    assert not torch.equal(
        learnt.weights["model.roberta.embeddings.word_embeddings.weight"],
        learnt.untrained["model.roberta.embeddings.word_embeddings.weight"],
    )


def test_one_worker_agrees_with_two(two_workers, folder):
    choices = [{"zero_stage": stage, "precision": precision} for stage in range(4) for precision in ("fp32", "bf16")]
    for choice, (alone,) in zip(choices, run_world(1, train, [Case(folder, c) for c in choices], folder), strict=True):
        assert isinstance(alone, Trained), alone
        pair = two_workers[str(choice | {"offload_optimizer": False, "activation_checkpointing": False})][0]
        rel = 1e-5 if choice["precision"] == "fp32" else 0.01
        assert losses(alone) == pytest.approx(losses(pair), rel=rel)


REFUSED = [
    (
        {"deepspeed": {"offload_optimizer": True, "zero_stage": 0}},
        "deepspeed.offload_optimizer",
        "deepspeed.zero_stage",
    ),
    ({"deepspeed": {"precision": "fp16"}, "resources": {"gpu": False}}, "deepspeed.precision", "resources.gpu"),
    ({"deepspeed": {"shared_memory": True}, "resources": {"gpu": True}}, "deepspeed.shared_memory", "resources.gpu"),
]


@pytest.mark.parametrize(("changes", "first", "second"), REFUSED)
def test_what_the_configuration_gives_away_is_refused_with_both_keys(changes, first, second):
    with pytest.raises(UsageError, match=rf"{first}=\w+ with {second}=\w+: "):
        build_config(PretrainConfig, changes)


def test_every_row_of_the_tables_is_tried_above():
    rows = [*IMPOSSIBLE, *IMPOSSIBLE_BY_GPU[False], *IMPOSSIBLE_BY_GPU[True]]
    assert [(row.first[0], row.second[0]) for row in rows] == [(first, second) for _, first, second in REFUSED]


def test_what_the_cluster_gives_away_is_refused_when_it_is_known():
    fp16 = build_config(PretrainConfig, {"deepspeed": {"precision": "fp16"}})
    with pytest.raises(UsageError, match=r"deepspeed\.precision=fp16 with resources\.gpu=false: .*choose bf16 or fp32"):
        plan_workers(fp16, cpus=4, gpus=0)
    assert plan_workers(fp16, cpus=4, gpus=2) == (2, True)
    shared = build_config(PretrainConfig, {"deepspeed": {"shared_memory": True}})
    with pytest.raises(UsageError, match=r"deepspeed\.shared_memory=true with resources\.gpu=true"):
        plan_workers(shared, cpus=4, gpus=1)
    with pytest.raises(UsageError, match=r"groups_per_step=4 must be a multiple of resources\.workers=3"):
        plan_workers(build_config(PretrainConfig, {"resources": {"workers": 3}}), cpus=4, gpus=0)
