"""Peak memory of a stage: this process and everything it started, sampled every two seconds.

Proportional set size, so memory that processes share (Ray's object store, mapped models) counts once. It sees this
machine only: on a cluster, use Ray's metrics.
"""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_EVERY_S = 2.0  # reading the maps of twenty processes takes a tenth of a second


class PeakMemory:
    """`with PeakMemory() as peak: …; peak.bytes`"""

    def __init__(self) -> None:
        self.bytes = 0
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
            self.bytes = max(self.bytes, tree_bytes())
            if self._stop.wait(_EVERY_S):
                return


def tree_bytes() -> int:
    """Memory of this process and its descendants now."""
    own = psutil.Process()
    return sum(map(_bytes, [own, *own.children(recursive=True)]))


def _bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0  # it ended between being listed and being asked
