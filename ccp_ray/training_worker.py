"""What every training's Ray Train worker does around its loop: join a group of even shares, tell what ended it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ccp_ray.errors import CcpError
from ccp_ray.ledger import Entry, FileRecord, Ledger, put_bytes
from ccp_ray.log_fields import log_fields
from ccp_ray.progress import say
from ccp_ray.storage import Store
from ccp_ray.training_config import even_world

if TYPE_CHECKING:
    from ccp_ray.training_loop import TrainingLoop

EXPORT = "encoder"  # the piece in the ledger


def work_in_group(arguments: dict[str, Any], groups: int, train: Callable[[], None]) -> None:
    """Run `train` in this worker, if a step's `groups` can be shared out to it; arguments: as `training_job` made them.

    A CcpError goes to the board and ends the run; what else escapes makes Ray Train restart the workers.
    """
    import torch.distributed as dist

    rank = dist.get_rank()
    with log_fields(run=arguments["output"], stage=arguments["stage"], rank=rank):
        say(f"worker {rank} of {dist.get_world_size()} is there")
        _work(arguments, groups, train)
        say(f"worker {rank} is through")


def _work(arguments: dict[str, Any], groups: int, train: Callable[[], None]) -> None:
    import ray
    import torch
    import torch.distributed as dist

    from ccp_ray.worker_group import join_even_group

    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # a restart cannot mend what the last attempt named
    if not join_even_group(even_world(groups, dist.get_world_size())):
        return
    if not torch.cuda.is_available():
        torch.set_num_threads(arguments["threads"])
    try:
        train()
    except CcpError as error:
        say(str(error), level="error")
        ray.get(board.fail.remote(type(error).__name__, str(error)))
        raise
    dist.barrier()


def asks_ray() -> Callable[[], bool] | None:
    """How a loop asks whether Ray is about to take a node; None where nobody can.

    Asking is a barrier of all workers that Ray started, so with one left out nobody can ask.
    """
    import torch.distributed as dist
    from ray.train import get_context, get_preemption_info

    everyone = get_context().get_world_size() == dist.get_world_size()
    return (lambda: get_preemption_info() is not None) if everyone else None


def commit_export(
    run: TrainingLoop, store: Store, files: Sequence[FileRecord], summary: dict[str, Any], seconds: float
) -> None:
    """Commit what was trained, with its metrics rows; rank 0 calls it."""
    text = "".join(json.dumps(row) + "\n" for row in run.rows)
    training = [row for row in run.rows if "probe" not in row]
    summary |= {
        "contrastive": training[-1]["contrastive"],
        "accuracy": training[-1]["accuracy"],
        "padding_efficiency": sum(row["padding_efficiency"] for row in training) / len(training),
        "problems": [problem for row in run.rows for problem in row.get("problems", [])],
    }
    measured = {
        "seconds": seconds,
        "workers": run.world,
        "zero_stage": run.training.deepspeed.zero_stage,
        "tokens_per_s": run.tokens_per_s(),
    }
    metrics = put_bytes(store, "metrics.jsonl", text.encode())
    Ledger(store).commit(EXPORT, Entry(files=[*files, metrics], info={"summary": summary, "measured": measured}))
