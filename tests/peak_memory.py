"""The memory that work takes at its peak, as the kernel counts it: FAISS' and Arrow's too, which tracemalloc misses."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_STATUS = Path("/proc/self/status")
_CONTEXT = multiprocessing.get_context("spawn")


def peak_growth(work: Callable[..., Any], before: tuple[Any, ...], measured: tuple[Any, ...]) -> int:
    """Bytes that `work(*measured)` needs at most beyond what a fresh process holds after `work(*before)`.

    `work` is a function of a module. Not `getrusage`, whose peak a process takes over from the one that started it.
    """
    if not _STATUS.exists():
        pytest.skip("no /proc/self/status, where Linux tells a process its peak of memory")
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_measure, args=(theirs, work, before, measured), daemon=True)
    process.start()
    theirs.close()
    growth: int = mine.recv()  # EOFError where the work failed
    process.join()
    return growth


def _measure(answer: Any, work: Callable[..., Any], before: tuple[Any, ...], measured: tuple[Any, ...]) -> None:
    work(*before)
    held = _bytes("VmRSS")
    work(*measured)
    answer.send(_bytes("VmHWM") - held)


def _bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
