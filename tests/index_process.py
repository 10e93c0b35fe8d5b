"""`index` in a process of its own, without Ray: its driver does the pieces' work, so one SIGKILL ends both.

A process costs 1 s, of which most are imports; a run on Ray costs ten.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from multiprocessing.context import SpawnProcess
from typing import Any

import pytest
from without_ray import indexing_here

from ccp_ray import pieces
from ccp_ray.faults import VARIABLE
from ccp_ray.index import IndexConfig, index

CONTEXT = multiprocessing.get_context("spawn")  # FAISS' threads do not outlive a fork


def start(embeddings: str, output: str, config: IndexConfig, armed: str = "", meeting: Any = None) -> SpawnProcess:
    """armed: for CCP_RAY_FAULTS. meeting: a barrier of `CONTEXT` at which several wait before each stage's pieces."""
    process = CONTEXT.Process(target=_index, args=(embeddings, output, config, armed, meeting), daemon=True)
    process.start()
    return process


def _index(embeddings: str, output: str, config: IndexConfig, armed: str, meeting: Any) -> None:
    os.environ[VARIABLE] = armed
    with pytest.MonkeyPatch.context() as patch, indexing_here():
        if meeting is not None:
            patch.setattr(pieces, "_stream", _met(meeting, pieces._stream))
        index(embeddings, output, config)


def _met(meeting: Any, stream: Callable[..., Iterable[Any]]) -> Callable[..., Iterable[Any]]:
    def met(*arguments: Any) -> Iterable[Any]:
        meeting.wait(60)
        return stream(*arguments)

    return met
