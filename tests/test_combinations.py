"""ZeRO 0 to 3 in every precision, plain and with offload and activation checkpointing: trained, or refused by name."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import training_ranks
from training_ranks import Outcome, Scenario

from ccp_ray.combinations import IMPOSSIBLE
from ccp_ray.config import build_config
from ccp_ray.errors import UsageError
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.pretrain_job import plan_workers

pytestmark = pytest.mark.timeout(600)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN = {"offload_optimizer": False, "activation_checkpointing": False}


def allowed() -> list[dict[str, Any]]:
    """Every stage and precision, plain and with all else that the table does not refuse on a GPU.

    Offload and fp16 run on CPUs here, to be seen running.
    """
    choices = []
    for stage, precision, more in itertools.product(range(4), DTYPES, (False, True)):
        extras = {"offload_optimizer": more and stage > 0, "activation_checkpointing": more}
        choices.append({"zero_stage": stage, "precision": precision, **extras})
    return choices


def scenarios() -> dict[str, Scenario]:
    clipped = {"optimizer": {"clip": 0.5}}
    found = {name(choice): Scenario(clipped | {"deepspeed": choice}, 2, gradients=False) for choice in allowed()}
    for stage in range(4):
        long = {"steps": 20, "optimizer": {"clip": 0.5, "eps": 1e-6, "lr": 3e-3}}
        found[f"long {stage}"] = Scenario(long | {"deepspeed": {"zero_stage": stage}}, 20, gradients=False)
        low = {"zero_stage": stage, "precision": "fp16"}
        found[f"fp16 {stage}"] = Scenario(long | {"deepspeed": low}, 20, gradients=False)
    return found


def name(choice: dict[str, Any]) -> str:
    return " ".join(map(str, choice.values()))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """All of them in one start of two processes; torch computes fp16 on CPUs, though DeepSpeed would not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCP_RAY_TEST_FP16", "1")
        return training_ranks.train(2, scenarios(), tmp_path_factory.mktemp("combinations"))


def losses(outcome: Outcome) -> list[float]:
    return [row["loss"] for row in outcome.metrics]


def learnt(outcome: Outcome) -> bool:
    """Whether masked letters are guessed better at the end: of random letters, how often each occurs."""
    mlm = [row["mlm"] for row in outcome.metrics]
    return sum(mlm[-5:]) < sum(mlm[:5])


def test_zero_stages_give_the_same_losses_over_twenty_steps(two_workers):
    reference = losses(two_workers["long 0"][0])
    assert len(reference) == 20
    for stage in (1, 2, 3):
        assert losses(two_workers[f"long {stage}"][0]) == pytest.approx(reference, rel=1e-4)
    assert learnt(two_workers["long 0"][0])


@pytest.mark.parametrize("choice", allowed(), ids=name)
def test_every_allowed_combination_trains_and_exports_the_master_weights(two_workers, choice):
    reference = two_workers[name({"zero_stage": 0, "precision": "fp32"} | PLAIN)][0]
    found, other = two_workers[name(choice)]
    assert losses(found) == losses(other)
    low = choice["precision"] != "fp32"
    assert losses(found) == pytest.approx(losses(reference), rel=0.01 if low else 1e-5)
    assert found.exported.keys() == found.weights.keys()
    assert not other.exported
    dtype = DTYPES[choice["precision"]]
    for parameter, weight in found.exported.items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight.to(dtype), found.weights[parameter]), parameter  # the model works with their rounding
        assert torch.equal(found.weights[parameter], other.weights[parameter]), parameter
        torch.testing.assert_close(weight, reference.exported[parameter], rtol=0, atol=4e-3 if low else 1e-6)
    rounded = all(torch.equal(weight, weight.to(dtype).float()) for weight in found.exported.values())
    assert rounded == (not low or all(row["skipped"] for row in found.metrics))


@pytest.mark.parametrize("stage", range(4))
def test_fp16_lowers_its_loss_scale_until_steps_are_made(two_workers, stage):
    rows = two_workers[f"fp16 {stage}"][0].metrics
    assert {row["skipped"] for row in rows} <= {0.0, 1.0}
    assert rows[-1]["skipped"] == 0.0
    assert learnt(two_workers[f"fp16 {stage}"][0])


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


def test_every_row_of_the_table_is_tried_above():
    assert [(row.first[0], row.second[0]) for row in IMPOSSIBLE] == [(first, second) for _, first, second in REFUSED]


def test_what_the_cluster_gives_away_is_refused_when_it_is_known():
    fp16 = build_config(PretrainConfig, {"deepspeed": {"precision": "fp16"}})
    with pytest.raises(UsageError, match=r"deepspeed\.precision=fp16 with resources\.gpu=false: .*choose bf16 or fp32"):
        plan_workers(fp16, cpus=4, gpus=0)
    assert plan_workers(fp16, cpus=4, gpus=2) == (2, True)
    shared = build_config(PretrainConfig, {"deepspeed": {"shared_memory": True}})
    with pytest.raises(UsageError, match=r"deepspeed\.shared_memory=true with resources\.gpu=true"):
        plan_workers(shared, cpus=4, gpus=1)
