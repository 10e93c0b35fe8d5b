"""A training on Ray Train: workers are started, watched and restarted; what they say is shown.

The driver starts a `TorchTrainer`. Checkpoints, metrics and encoders go to the output's store from the workers; the
driver shows progress. Ray Train restarts the workers from the last checkpoint when one dies, and a new driver does the
same from the store alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ccp_ray import errors
from ccp_ray.board import Board, Watch
from ccp_ray.combinations import check_hardware
from ccp_ray.config import StrictModel
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.log_fields import log_fields
from ccp_ray.names import shown_name
from ccp_ray.progress import Meter, say
from ccp_ray.shortage import Shortage
from ccp_ray.storage import open_store
from ccp_ray.store_watch import watched
from ccp_ray.telemetry import Telemetry
from ccp_ray.training_config import TrainingConfig, even_world


def plan_workers(config: TrainingConfig, cpus: int, gpus: int) -> tuple[int | tuple[int, int], bool]:
    """(workers or their bounds, whether each has a GPU).

    Raises UsageError for no GPU, and where the groups of a step cannot be shared out evenly.
    """
    use_gpu = gpus > 0 if config.resources.gpu is None else config.resources.gpu
    most = gpus if use_gpu else min(2, max(1, cpus // config.resources.cpus_per_worker))
    assert isinstance(config, StrictModel)
    check_hardware(config, use_gpu)
    workers = config.resources.workers
    if workers is None and not most:
        raise UsageError("resources.gpu=true, but the cluster has no GPU; set resources.workers to wait for some")
    if workers is None:
        return even_world(config.groups_per_step, most), use_gpu
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if config.groups_per_step % least:  # a maximum need not fit: the largest number below it that does is used
        raise UsageError(
            f"groups_per_step={config.groups_per_step} must be a multiple of resources.workers={least}"
            f"{', the minimum' if isinstance(workers, tuple) else ''}"
        )
    most = even_world(config.groups_per_step, most)
    return (least if least == most else (least, most)), use_gpu


def train(
    name: str,
    work: Callable[[dict[str, Any]], None],
    config: TrainingConfig,
    steps: int,
    output: str,
    arguments: Mapping[str, Any],
) -> None:
    """Run `work` in Ray Train's workers, in the current Ray session, until it has committed what it makes.

    name: the stage, for a person. arguments: what `work` gets besides `board` (an actor), `output` and `threads`.
    Raises the CcpError that a worker ended with, and CcpError where workers died too often.
    """
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ccp_ray.worker_group import PreemptibleTorchConfig

    workers, use_gpu, shortage = _say_workers(name, config)
    # On the driver's node, where Ray Train has its controller: with another node's death this run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    readable = shown_name(name, output)
    remote = ray.remote(num_cpus=0, scheduling_strategy=here)(Board)
    board = remote.options(name=f"board of {readable} {os.urandom(3).hex()}").remote()
    with tempfile.TemporaryDirectory(prefix="ccp-ray-train-") as scratch:
        trainer = TorchTrainer(
            work,
            train_loop_config={
                **arguments,
                "stage": name,
                "output": output,
                "board": board,
                "threads": config.resources.cpus_per_worker,
            },
            torch_config=PreemptibleTorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.resources.cpus_per_worker},
                elastic_resize_monitor_interval_s=config.resources.resize_every_s,
            ),
            run_config=RunConfig(
                name=readable,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.resources.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        meter, telemetry = Meter(name, steps, "steps"), Telemetry(output)
        waiting = watched(open_store(output))
        with log_fields(run=output, stage=name), meter, telemetry, Watch(board, meter, telemetry, shortage), waiting:
            try:
                trainer.fit()
            except Exception as error:
                failure = ray.get(board.failure.remote())
                if failure is None:
                    raise CcpError(f"{name} stopped: {_last_line(error)}; run again to continue") from error
        failure = ray.get(board.failure.remote())
        if failure is not None:
            raise getattr(errors, failure[0])(failure[1])


def _say_workers(name: str, config: TrainingConfig) -> tuple[int | tuple[int, int], bool, Shortage]:
    """What `plan_workers` finds for the current cluster, told; and what watches that it goes on to have it."""
    import ray

    from ccp_ray.engine import communication_note

    resources = ray.cluster_resources()
    workers, use_gpu = plan_workers(config, int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    where = "GPU, nccl" if use_gpu else f"CPU, {communication_note(config.deepspeed)}"
    shape = f"ZeRO {config.deepspeed.zero_stage}, {config.deepspeed.precision}"
    count = f"{workers[0]} to {workers[1]}" if isinstance(workers, tuple) else str(workers)
    say(f"{name}: {count} worker{'s' * (count != '1')}, {shape}, {where}")
    least = workers[0] if isinstance(workers, tuple) else workers
    shortage = Shortage(name, {"CPU": least * config.resources.cpus_per_worker, "GPU": least * use_gpu})
    shortage.look(resources, at_once=True)
    return workers, use_gpu, shortage


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
