"""A few processes that train together over gloo, without Ray.

Starting a process costs seconds (torch, transformers, DeepSpeed), so a world runs a list of jobs one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Job = Callable[..., Any]


def run_world(world: int, job: Job, cases: Sequence[Any], folder: Path) -> list[list[Any]]:
    """What `job(case)` returns, by case and rank; an exception comes back as its text. `job` is a module's function."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    store = folder / f"rendezvous-{os.urandom(4).hex()}"
    ranks = [context.Process(target=_rank, args=(rank, world, job, cases, store, queue)) for rank in range(world)]
    for process in ranks:
        process.start()
    answers = dict(queue.get() for _ in ranks)
    for process in ranks:
        process.join()
    return [[answers[rank][number] for rank in range(world)] for number in range(len(cases))]


def _rank(rank: int, world: int, job: Job, cases: Sequence[Any], store: Path, queue: Any) -> None:
    # What Ray Train sets for its workers, and DeepSpeed reads.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_SIZE=str(world))
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    answers: list[Any] = []
    for case in cases:
        try:
            answers.append(job(case))
        except Exception:
            answers.append(traceback.format_exc())
    queue.put((rank, answers))
    dist.barrier()
    dist.destroy_process_group()
