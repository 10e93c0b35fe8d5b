"""Notices that a machine is about to go: a real SIGTERM, and what ranks agree on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ccp_ray import preemption
from ccp_ray.preemption import Notice, Notices, heed_sigterm


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    preemption._told.clear()


def agreed(*ranks: Notices) -> dict[str, float]:
    """The mean of all ranks' signals, as the step computes it."""
    told = [rank.signals() for rank in ranks]
    return {name: sum(one[name] for one in told) / len(told) for name in told[0]}


def test_a_sigterm_becomes_a_notice() -> None:
    heed_sigterm()
    one = Notices(0, None)
    assert one.heed(agreed(one)) is Notice.NONE
    os.kill(os.getpid(), signal.SIGTERM)
    assert one.heed(agreed(one)) is Notice.END


def test_one_rank_that_was_told_is_enough() -> None:
    one = Notices(0, None)
    means = agreed(one)
    assert one.heed(means | {"told_to_end": 1 / 512}) is Notice.END


def test_a_second_sigterm_ends_the_process_as_before() -> None:
    script = (
        "import os, signal\nfrom ccp_ray.preemption import heed_sigterm\nheed_sigterm()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('alive', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('still alive', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.stdout == "alive\n"
    assert ended.returncode == -signal.SIGTERM


def test_ray_is_asked_by_all_ranks_when_rank_0_says_so_and_heard_once() -> None:
    asked = []

    def draining() -> bool:
        asked.append(len(asked))
        return len(asked) > 2

    ranks = [Notices(rank, draining, every_s=0.0) for rank in range(2)]
    heard = []
    for _ in range(4):
        means = agreed(*ranks)
        heard.append([rank.heed(means) for rank in ranks])
    # Two calls a step: the third and later ones say that a node is going. Ranks see what Ray's barrier gives them.
    assert heard[0] == [Notice.NONE, Notice.NONE]
    assert heard[1] == [Notice.CHECKPOINT, Notice.CHECKPOINT]
    assert heard[2:] == [[Notice.NONE, Notice.NONE]] * 2
    assert len(asked) == 4


def test_ray_is_not_asked_at_every_step() -> None:
    rank = Notices(0, lambda: pytest.fail("asked too early"), every_s=60.0)
    for _ in range(10):
        assert rank.heed(agreed(rank)) is Notice.NONE
