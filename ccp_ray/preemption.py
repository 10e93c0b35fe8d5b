"""Notices that a machine is about to go, and what all ranks make of them.

Two kinds. SIGTERM to a worker's process (Slurm, `kill`): the step is finished, a checkpoint is committed and the
workers end so that a restart goes on from it. Ray draining a worker's node (spot machines, Kubernetes, autoscaler): a
checkpoint is taken and training goes on until Ray Train moves the workers.

A checkpoint needs all ranks at the same step, so what one rank was told travels with the step's metrics (one vector
that is summed anyway: no further message). Ray is asked by all together, every few seconds, when rank 0 says so.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum
from types import FrameType

_ASK_EVERY_S = 5.0  # Ray Train itself looks that often
_TERM, _ASK = "told_to_end", "ask_for_notices"

_told = threading.Event()


class PreemptedError(Exception):
    """The workers end after a checkpoint because one was told to; a restart goes on. No CcpError: it may be retried."""


class Notice(Enum):
    """What to do, by the reason for it."""

    NONE = ""
    CHECKPOINT = "Ray is about to take a node"
    END = "a worker was told to end (SIGTERM)"


def heed_sigterm() -> None:
    """From now on the first SIGTERM to this process is a notice; a second one ends it as before. Main thread only."""
    before = signal.getsignal(signal.SIGTERM)

    def note(_number: int, _frame: FrameType | None) -> None:
        _told.set()
        signal.signal(signal.SIGTERM, before)

    _told.clear()
    signal.signal(signal.SIGTERM, note)


class Notices:
    """One rank's part in the agreement. `draining`: asks Ray, a barrier of all ranks; None: nobody to ask."""

    def __init__(self, rank: int, draining: Callable[[], bool] | None, every_s: float = _ASK_EVERY_S) -> None:
        self.draining, self.every_s = draining, every_s
        self._asks = rank == 0 and draining is not None
        self._asked = time.monotonic()
        self._drained = False

    def signals(self) -> dict[str, float]:
        """What this rank tells the others at this step."""
        due = self._asks and not self._drained and time.monotonic() - self._asked >= self.every_s
        return {_TERM: float(_told.is_set()), _ASK: float(due)}

    def heed(self, agreed: Mapping[str, float]) -> Notice:
        """What to do after a step, from the mean of all ranks' signals: the same on all ranks."""
        if agreed[_TERM] > 0:
            return Notice.END
        if agreed[_ASK] > 0 and self.draining is not None:
            self._asked = time.monotonic()
            if self.draining():
                self._drained = True  # once: Ray Train replaces these processes
                return Notice.CHECKPOINT
        return Notice.NONE
