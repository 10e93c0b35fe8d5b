"""Peak memory of a stage: this process and everything it started, sampled every two seconds.

Proportional set size, so memory that processes share (Ray's object store, mapped models) counts once. It sees this
machine only: on a cluster, use Ray's metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import psutil

_EVERY_S = 2.0  # reading the maps of twenty processes takes a tenth of a second


def tree_bytes() -> int:
    """Memory of this process and its descendants now."""
    own = psutil.Process()
    return sum(map(_bytes, [own, *own.children(recursive=True)]))


def largest_worker_bytes() -> int:
    """The largest resident set among the Ray workers that this process started, without what they share with others."""
    workers = (process for process in psutil.Process().children(recursive=True) if _is_worker(process))
    return max(map(_own_bytes, workers), default=0)


class PeakMemory:
    """`with PeakMemory() as peak: …; peak.bytes`: the highest of what `now` says."""

    def __init__(self, now: Callable[[], int] = tree_bytes) -> None:
        self.bytes, self._now = 0, now
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._now())
            if self._stop.wait(_EVERY_S):
                return


def _bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0  # it ended between being listed and being asked


def _is_worker(process: psutil.Process) -> bool:
    """Ray gives a worker's process the title of what it runs."""
    try:
        return "".join(process.cmdline()[:1]).startswith("ray::")
    except psutil.Error:
        return False


def _own_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))
    except psutil.Error:
        return 0
