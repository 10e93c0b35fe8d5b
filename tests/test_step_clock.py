"""A step's time by part: known waits against what the clock says."""

from __future__ import annotations

import time

import pytest
import torch

from ccp_ray import step_clock
from ccp_ray.step_clock import CHECKPOINT, DATA, FORWARD_BACKWARD, OTHER, PARTS, SYNC, StepClock


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, to be set."""
    moment = [100.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: moment[0])
    return moment


def test_parts_of_two_steps_and_what_is_between_them(now):
    clock = StepClock(torch.device("cpu"))
    for data, forward in ((1.0, 4.0), (3.0, 2.0)):
        clock.start()
        for _ in range(2):  # two groups a step
            now[0] += data / 2
            clock.lap(DATA)
            now[0] += forward / 2
            clock.lap(FORWARD_BACKWARD)
        now[0] += 0.5
        clock.stop(SYNC)
        now[0] += 10.0  # between steps nothing counts by itself
    with clock.timed(CHECKPOINT):
        now[0] += 6.0
    taken = clock.take(2, seconds=40.0)
    assert list(taken) == list(PARTS)
    assert taken == pytest.approx(
        {"data": 2.0, "forward_backward": 3.0, "optimizer": 0.0, "sync": 0.5, "checkpoint": 3.0, "measure": 0.0}
        | {"other": 20.0 - 8.5}
    )
    assert set(clock.take(1, 1.0).values()) == {0.0, 1.0}  # it begins anew


def test_a_step_that_failed_is_forgotten(now):
    clock = StepClock(torch.device("cpu"))
    clock.start()
    now[0] += 5.0
    clock.lap(DATA)
    clock.start()
    now[0] += 1.0
    clock.stop(SYNC)
    assert clock.take(1, 1.0) == dict.fromkeys(PARTS, 0.0) | {SYNC: 1.0}


def test_clocks_that_disagree_leave_nothing_below_zero():
    clock = StepClock(torch.device("cpu"))
    with clock.timed(CHECKPOINT):
        sum(range(10_000))
    assert clock.take(1, seconds=0.0)[OTHER] == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_split_is_of_the_devices_time():
    where = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=where)
    clock = StepClock(where)
    for _ in range(2):  # the first time allocates
        clock.start()
        clock.lap(DATA)
        for _ in range(20):
            matrix = matrix @ matrix
        launched = time.perf_counter()
        clock.lap(FORWARD_BACKWARD)
        float(matrix[0, 0])
        waited = time.perf_counter() - launched
        clock.stop(SYNC)
        taken = clock.take(1, seconds=1.0)
    assert taken[FORWARD_BACKWARD] > 0.5 * waited > 10 * taken[DATA]  # the host had left it long before it was done
