"""Bytes that a rank receives in a step, by what they are for; `python -m jobs.traffic` prints docs/scaling.md's table.

Sizes are those of the tensors that `ccp_ray.training_step` and `ccp_ray.bank_term` hand to collectives; the test counts
them there. Gradients are a ring all-reduce, 2 (W - 1) / W of their bytes; that ZeRO gathers weights besides is left
out. Time is bytes over bandwidth plus a latency for each of W - 1 turns of a ring: pessimistic, for NCCL has better
algorithms for small messages.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.config import build_config
from ccp_ray.pretrain_config import PretrainConfig, head_width
from jobs.plan import megabytes

_FP32, _HASH = 4, 8
_ROW_COUNTS = 6  # of a bank term's row, beside its mean key
_TURN_S = 5e-6
_BANDWIDTH = 25e9  # bytes a second into a GPU: a card of 200 Gb/s
_GRADIENT_CALLS, _MEMORY_CALLS, _TERM_CALLS = 2, 1, 2  # a ring all-reduce turns twice; the term asks and is answered
_XLMR_BASE, _LANGUAGES = 278_600_000, 108


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


def scaling_table() -> str:
    """docs/scaling.md's table: XLM-R base, one group of 256 pairs a GPU, by ranks and the banks' precision."""
    columns = ("ranks", "banks", "gradients", "keys, statistics", "share", "sharded term")
    titles = (*columns, "banks a GPU: replicated", "sharded")
    lines = [f"| {' | '.join(titles)} |", f"|---:|:---|{'---:|' * (len(titles) - 2)}"]
    for workers in (8, 64, 512):
        lines += [f"| {' | '.join(_scaling_row(workers, dtype))} |" for dtype in ("fp32", "bf16")]
    return "\n".join(lines)


def _scaling_row(workers: int, dtype: str) -> list[str]:
    bank = {"size": 4096, "dtype": dtype, "placement": "sharded"}
    settings = {"groups_per_step": workers, "pairs_per_group": 256, "projection": 256, "bank": bank}
    config = build_config(PretrainConfig, settings | {"deepspeed": {"zero_stage": 1, "precision": "bf16"}})
    traffic = step_traffic(config, _XLMR_BASE, workers)
    received = (traffic.gradients, traffic.keys + traffic.statistics, traffic.bank_term)
    calls = (_GRADIENT_CALLS, _MEMORY_CALLS, _TERM_CALLS)
    taken = [seconds(size, call, workers, _BANDWIDTH) for size, call in zip(received, calls, strict=True)]
    times = [f"{megabytes(size)}, {1000 * each:.1f} ms" for size, each in zip(received, taken, strict=True)]
    held = [megabytes(config.bank.memory(_LANGUAGES, config.projection, ranks)) for ranks in (1, workers)]
    return [str(workers), dtype, *times[:2], f"{100 * taken[1] / taken[0]:.1f} %", times[2], *held]


if __name__ == "__main__":
    print(scaling_table())
