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

pytestmark = pytest.mark.timeout(900)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAIN = {"offload_optimizer": False, "activation_checkpointing": False}


def allowed() -> list[dict[str, Any]]:
    """Every stage and precision, plain and with all else that the table does not refuse on a GPU.

    Offload and fp16 run on CPUs here, to be seen running.
    """
    choices = []
    for stage, precision, more in itertools.product(range(4), DTYPES, (False, True)):
        if stage == 0 and precision == "fp16":
            continue
        extras = {"offload_optimizer": more and stage > 0, "activation_checkpointing": more}
        choices.append({"zero_stage": stage, "precision": precision, **extras})
    return choices


def scenarios() -> dict[str, Scenario]:
    clipped = {"optimizer": {"clip": 0.5}}
    found = {name(choice): Scenario(clipped | {"deepspeed": choice}, 2, gradients=False) for choice in allowed()}
    long = {"steps": 20, "optimizer": {"clip": 0.5, "eps": 1e-6, "lr": 3e-3}}
    for precision, stage in itertools.product(DTYPES, range(4)):
        if (precision, stage) != ("fp16", 0):
            deepspeed = {"zero_stage": stage, "precision": precision}
            found[f"{precision} {stage}"] = Scenario(long | {"deepspeed": deepspeed}, 20, gradients=False)
    return found


def name(choice: dict[str, Any]) -> str:
    return " ".join(map(str, choice.values()))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """All of them in one start of two processes; torch computes fp16 on CPUs, though DeepSpeed would not."""
    return training_ranks.train(2, scenarios(), tmp_path_factory.mktemp("combinations"), fp16=True)


def losses(outcome: Outcome) -> list[float]:
    return [row["loss"] for row in outcome.metrics]


@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-4), ("bf16", 0.03), ("fp16", 0.03)])
def test_zero_stages_give_the_same_losses_over_twenty_steps(two_workers, precision, relative):
    """In 16 bits roundings add up (and fp16 skips its first steps), so their stages are compared with each other."""
    reference = losses(two_workers[f"{precision} 1"][0])
    assert len(reference) == 20
    for stage in range(1 if precision == "fp16" else 0, 4):
        assert losses(two_workers[f"{precision} {stage}"][0]) == pytest.approx(reference, rel=relative)


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


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fp16_lowers_its_loss_scale_until_steps_are_made(two_workers, stage):
    outcome = two_workers[f"fp16 {stage}"][0]
    skipped = [row["skipped"] for row in outcome.metrics]
    assert set(skipped) == {0.0, 1.0}
    assert skipped[0] == 1.0
    assert skipped[-1] == 0.0
    untrained = two_workers[name({"zero_stage": stage, "precision": "fp16"} | PLAIN)][0]  # both of its steps skipped
    assert {row["skipped"] for row in untrained.metrics} == {1.0}
    changed = [name for name, weight in outcome.exported.items() if not torch.equal(weight, untrained.exported[name])]
    assert len(changed) > len(outcome.exported) / 2


REFUSED = [
    (
        {"deepspeed": {"offload_optimizer": True, "zero_stage": 0}},
        "deepspeed.offload_optimizer",
        "deepspeed.zero_stage",
    ),
    ({"deepspeed": {"precision": "fp16", "zero_stage": 0}}, "deepspeed.precision", "deepspeed.zero_stage"),
    ({"deepspeed": {"precision": "fp16"}, "resources": {"gpu": False}}, "deepspeed.precision", "resources.gpu"),
    ({"deepspeed": {"shared_memory": True}, "resources": {"gpu": True}}, "deepspeed.shared_memory", "resources.gpu"),
]


@pytest.mark.parametrize(("changes", "first", "second"), REFUSED)
def test_what_the_configuration_gives_away_is_refused_with_both_keys(changes, first, second):
    with pytest.raises(UsageError, match=rf"{first}=\w+ with {second}=\w+: \w"):
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
