"""What observability adds to a training step, in seconds: the step's clock, the loss by language, a live row.

It is timed by itself, many times over: a step's own time varies by more than the hundredth that is allowed, so the
difference of steps with and without it would say nothing. What the driver does with a row (gauges, files) is another
process's work, once in `log_every` steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ccp_ray.language_loss import joined_by_language, split_by_language
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.step_clock import DATA, FORWARD_BACKWARD, OPTIMIZER, SYNC, StepClock

_STEPS = 300


def watching_seconds(config: PretrainConfig, languages: Sequence[str], where: torch.device) -> float:
    """A step, of one rank that has all its groups. The device works off what it is asked, and is waited for."""
    groups = [languages[number % len(languages)] for number in range(config.groups_per_step)]
    losses_G = torch.rand(config.groups_per_step, device=where)
    clock = StepClock(where)
    for steps in (10, _STEPS):  # the first allocate
        started = time.perf_counter()
        for _ in range(steps):
            _step(clock, losses_G, groups)
        if where.type == "cuda":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / steps
    return seconds


def _step(clock: StepClock, losses_G: torch.Tensor, groups: list[str]) -> None:
    clock.start()
    for _ in groups:
        for part in (DATA, FORWARD_BACKWARD, OPTIMIZER):
            clock.lap(part)
    losses, shares = split_by_language(losses_G, groups, groups)
    means = torch.stack([vector_G.double().mean() for vector_G in losses.values()]).tolist()
    clock.stop(SYNC)
    clock.take(1, 1.0)
    joined_by_language([dict(zip(losses, means, strict=True)) | shares])
