"""Where the time of training steps goes, without making the device wait.

Code calls `lap(part)` where a part ends. On CPUs a lap reads a clock (0.1 µs). On a GPU it records an event in the
stream (2 µs), and the times between events are read after the step's numbers have left the device, which waits for it
anyway. So the split is of the device's time: data that is prepared while the device is busy costs nothing there, and
is not shown. The gradients' reduction over ranks is where DeepSpeed does it, in `forward_backward`; `sync` holds what
follows the optimiser: keys, statistics and metrics over all ranks, pushes to banks, and waiting for the slowest rank.

`share_of_step` of `ccp-ray bench training` measures what all of this costs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

DATA, FORWARD_BACKWARD, OPTIMIZER, SYNC = "data", "forward_backward", "optimizer", "sync"
CHECKPOINT, MEASURE, OTHER = "checkpoint", "measure", "other"
PARTS = (DATA, FORWARD_BACKWARD, OPTIMIZER, SYNC, CHECKPOINT, MEASURE, OTHER)


class StepClock:
    """Adds up seconds by part over the steps of a metrics row."""

    def __init__(self, where: torch.device) -> None:
        self._events = where.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._spare: list[Any] = []
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def start(self) -> None:
        """A step begins."""
        self._forget()
        self._marks.append((OTHER, self._now()))

    def lap(self, part: str) -> None:
        """What ran since the last mark was `part`."""
        self._marks.append((part, self._now()))

    def stop(self, part: str) -> None:
        """The last part of the step ended, and its numbers have left the device."""
        self.lap(part)
        if self._events:
            self._marks[-1][1].synchronize()  # recorded after the device was waited for: no wait worth the name
        for (_, begun), (ended_part, ended) in pairwise(self._marks):
            self._seconds[ended_part] += begun.elapsed_time(ended) / 1000 if self._events else ended - begun
        self._forget()

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Work of the host between steps, which ends with what it started on the device."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - begun

    def take(self, steps: int, seconds: float) -> dict[str, float]:
        """Mean seconds a step by part, of `steps` steps that took `seconds` in all; then count from 0."""
        known = {part: value / steps for part, value in self._seconds.items() if part != OTHER}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return known | {OTHER: max(0.0, seconds / steps - sum(known.values()))}

    def _now(self) -> Any:
        if not self._events:
            return time.perf_counter()
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _forget(self) -> None:
        if self._events:
            self._spare += [event for _, event in self._marks]
        self._marks.clear()
