"""Settings of pretraining that cannot work together: one table, and the refusal that names both keys.

Some pairs the configuration alone gives away, others only the hardware that the workers will have. What is not in the
table trains: ZeRO 0 to 3 in fp32 and bf16, 1 to 3 in fp16, with and without offload and activation checkpointing
(`tests/test_combinations.py` runs them on two workers).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from ccp_ray.config import StrictModel
from ccp_ray.errors import UsageError

_GPU = "resources.gpu"


class Impossible(NamedTuple):
    """Two settings that cannot work together: dotted keys, the value of each, and why."""

    first: tuple[str, Any]
    second: tuple[str, Any]
    why: str


IMPOSSIBLE = [
    Impossible(
        ("deepspeed.offload_optimizer", True),
        ("deepspeed.zero_stage", 0),
        "ZeRO 0 keeps the whole optimiser beside the model; choose zero_stage 1, 2 or 3",
    ),
    Impossible(
        ("deepspeed.precision", "fp16"),
        ("deepspeed.zero_stage", 0),
        "DeepSpeed 0.19 divides gradients by a loss scale that it does not multiply the loss by; choose zero_stage 1",
    ),
    Impossible(
        ("deepspeed.precision", "fp16"), (_GPU, False), "DeepSpeed runs fp16 on GPUs only; on CPUs choose bf16 or fp32"
    ),
    Impossible(
        ("deepspeed.shared_memory", True),
        (_GPU, True),
        "the shared-memory all-reduce is for CPUs, GPUs use NCCL; set shared_memory=false",
    ),
]


def refuse(config: StrictModel, gpu: bool | None) -> None:
    """Raises ValueError naming both keys of the first impossible pair. gpu: None where it is not known yet."""
    for pair in IMPOSSIBLE:
        if all((gpu if key == _GPU else _value(config, key)) == value for key, value in pair[:2]):
            settings = " with ".join(f"{key}={str(value).lower()}" for key, value in pair[:2])
            raise ValueError(f"{settings}: {pair.why}")


def check_hardware(config: StrictModel, gpu: bool) -> None:
    """Raises UsageError naming both keys where the configuration cannot work on what the workers will have."""
    try:
        refuse(config, gpu)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _value(config: StrictModel, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)
