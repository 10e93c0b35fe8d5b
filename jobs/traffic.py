"""Bytes that a rank receives in a step, by what they are for: the model behind docs/scaling.md.

Sizes are those of the tensors that `ccp_ray.training_step` and `ccp_ray.bank_term` hand to collectives; the test counts
them there. Gradients are a ring all-reduce, 2 (W - 1) / W of their bytes; that ZeRO gathers weights besides is left
out. Time is bytes over bandwidth plus a latency for each of W - 1 turns of a ring: pessimistic, for NCCL has better
algorithms for small messages.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.pretrain_config import PretrainConfig, head_width

_FP32, _HASH = 4, 8
_ROW_COUNTS = 6  # of a bank term's row, beside its mean key
_TURN_S = 5e-6


class Traffic(NamedTuple):
    """Bytes a rank and step. gradients: of the model; keys: to the banks, with hashes; statistics: of batch norm;
    bank_term: queries and answers of sharded banks."""

    gradients: float
    keys: float
    statistics: float
    bank_term: float


def step_traffic(config: PretrainConfig, parameters: int, workers: int) -> Traffic:
    """Received by one of `workers` in one step."""
    others, groups = workers - 1, config.groups_per_step
    pairs, size = config.pairs_per_group, config.projection
    elsewhere = groups * others / workers  # groups of other ranks
    stored = _FP32 if config.bank.dtype == "fp32" else 2
    gradient = _FP32 if config.deepspeed.precision == "fp32" else 2  # DeepSpeed sends them in the model's type
    banks = config.bank.size > 0
    asked = (1 + 2 * pairs) * _HASH + pairs * size * _FP32
    answered = pairs * (size + _ROW_COUNTS) * _FP32
    return Traffic(
        gradients=2 * others / workers * parameters * gradient,
        keys=elsewhere * pairs * (size * stored + _HASH) if banks else 0,
        statistics=elsewhere * 2 * head_width(size, config.head_start) * _FP32 if config.norm == "asymmetric" else 0,
        bank_term=elsewhere * (asked + answered) if banks and config.bank.placement == "sharded" else 0,
    )


def seconds(received: float, calls: int, workers: int, bandwidth: float) -> float:
    """Of `calls` collectives that bring `received` bytes together. bandwidth: bytes a second into a rank."""
    return received / bandwidth + calls * (workers - 1) * _TURN_S
