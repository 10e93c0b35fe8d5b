"""Functions run as the ranks of a gloo process group, in processes of their own.

Processes are forked from a server that has imported torch and DeepSpeed once, so a group starts in a second and not in
ten; each process is fresh, so DeepSpeed's module state of one group does not leak into the next.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PACKAGES = ["deepspeed", "transformers.models.xlm_roberta.modeling_xlm_roberta", "torch.utils.cpp_extension", "pytest"]
_PACKAGES += ["ccp_ray.encoder", "ccp_ray.pretrain", "ccp_ray.finetune", "transformers.convert_slow_tokenizer"]
# Imported by DeepSpeed in an engine's first start. To ask whether an optimiser is Muon it loads torch's whole compiler:
# 2 s that each process would pay again.
_AT_START = ["deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.module_inject.auto_ep_config"]
_CONTEXT.set_forkserver_preload(_PACKAGES + _AT_START)
_GIVE_UP_S = 400.0


class Ranks:
    """A running group: `function(rank, world, *arguments)` in each process. Arguments and results are pickled."""

    def __init__(self, world: int, function: Callable[..., Any], *arguments: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()  # where ranks find each other: no port that another may take
        meeting = str(Path(self._folder.name, "store"))
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(world)]
        self.processes = [
            _CONTEXT.Process(
                target=_run,
                args=(pipes[rank][1], rank, world, meeting, dict(os.environ), function, arguments),
                daemon=True,
            )
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()
        self._ends: list[Connection] = [end for end, _ in pipes]
        for _, far_end in pipes:
            far_end.close()

    def results(self) -> list[Any]:
        """Every rank's result. Raises RuntimeError with the traceback of the first rank that failed."""
        answers: dict[int, Any] = {}
        try:
            while len(answers) < len(self._ends):
                waiting = [end for rank, end in enumerate(self._ends) if rank not in answers]
                ready = wait(waiting, _GIVE_UP_S)
                if not ready:
                    raise RuntimeError(f"no answer within {_GIVE_UP_S} s")
                for end in ready:
                    rank = self._ends.index(end)  # type: ignore[arg-type]
                    answers[rank] = self._answer(rank)
        finally:
            self.kill()
        return [answers[rank] for rank in range(len(self._ends))]

    def kill(self) -> None:
        """SIGKILL to those that still run."""
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def _answer(self, rank: int) -> Any:
        try:
            ok, value = pickle.loads(self._ends[rank].recv_bytes())
        except EOFError:
            ok, value = False, "it died without a word"
        if not ok:
            raise RuntimeError(f"rank {rank} failed:\n{value}")
        return value


def run_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run to the end; every rank's result."""
    return Ranks(world, function, *arguments).results()


def wait_until(condition: Callable[[], bool], seconds: float = 240.0, every: float = 0.005) -> bool:
    """Whether the condition came true in time. every: seconds between looks, which cost a core what they cost."""
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(every)
    return condition()


def _run(
    end: Connection,
    rank: int,
    world: int,
    meeting: str,
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= environment  # a test's own: the server that forks has that of the first test
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "DS_ACCELERATOR_QUIET": "1"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
        answer = (True, function(rank, world, *arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    end.send_bytes(pickle.dumps(answer))  # not `send`: it would leave tensors in this process's shared memory
    os._exit(0)  # no goodbye between ranks: one may be gone
