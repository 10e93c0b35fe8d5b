"""Benchmarks over training in a pipeline: checkpoints are evaluated in the background, from the store, as they come.

A Ray task without a CPU of its own drives `eval.curve` while the driver trains, so no training step waits for it. Its
embedding jobs take CPUs or GPUs that training leaves free; where it leaves none they wait for its end. When training
has ended, the driver waits for the task, and does itself what the task did not come to.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from pydantic import Field

from ccp_ray.artifact import JOB
from ccp_ray.config import StrictModel
from ccp_ray.names import shown_name
from ccp_ray.progress import say
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store
from eval.curve import CurveConfig, curve

_POLL_S = 1.0


class PipelineCurve(StrictModel):
    """Which checkpoints are evaluated, and on what."""

    every: int = Field(ge=1, description="steps; a multiple of pretrain.resources.checkpoint_keep_every")
    benchmarks: list[str] = Field(min_length=1, description="of the pipeline's")


@contextlib.contextmanager
def background_curve(run: str, data: Mapping[str, str], output: str, config: CurveConfig) -> Iterator[None]:
    """Evaluate the checkpoints of a run within the block and, at its end, until none is left.

    `run` need not have begun. What ends the background task early is said; `eval.curve.curve` then does the rest.
    """
    with ray_session():
        import ray

        remote = ray.remote(num_cpus=0, max_retries=0)(_follow).options(name=shown_name("curve", run))
        task = remote.remote(run, dict(data), output, config.model_dump_json())
        try:
            yield
        except BaseException:
            ray.cancel(task, force=True)
            raise
        try:
            ray.get(task)
        except ray.exceptions.RayError as error:
            say(f"curve: the background task ended early ({str(error).strip().splitlines()[-1]}); the rest follows")


def _follow(run: str, data: dict[str, str], output: str, config: str) -> None:
    while open_store(run).size(JOB) is None:  # training has not begun
        time.sleep(_POLL_S)
    curve(run, list(data), data, output, CurveConfig.model_validate_json(config), follow=True)
