"""What every training is configured with: optimiser, DeepSpeed, workers and checkpoints.

The defaults are those of CCP's kin (MSM, arXiv 2302.01626, shunyuzh/MSM).
"""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field

from ccp_ray.config import AS_RESOURCE, StrictModel
from ccp_ray.worker_range import WorkerRange


class AdamWConfig(StrictModel):
    """AdamW; linear warm-up, then linear decay to zero."""

    lr: float = Field(default=4e-5, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    betas: tuple[float, float] = Field(default=(0.9, 0.98), strict=False)  # YAML has lists only
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, ge=0, description="gradient norm; 0: none")


class DeepSpeedConfig(StrictModel):
    """How DeepSpeed shards and computes.

    What changes results by rounding alone is like the number of workers: it may change between runs of one output.
    """

    zero_stage: Literal[0, 1, 2, 3] = Field(default=1, json_schema_extra=AS_RESOURCE)
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of the model; master weights and moments are fp32"
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="recompute each layer in the backward pass: less memory, a third more work",
        json_schema_extra=AS_RESOURCE,
    )
    offload_optimizer: bool = Field(
        default=False,
        description="master weights and moments in host memory, stepped there (ZeRO 1 to 3)",
        json_schema_extra=AS_RESOURCE,
    )
    shared_memory: bool = Field(
        default=False,
        description="build DeepSpeed's shared-memory all-reduce for CPUs (needs a C++ compiler, 40 s once)",
        json_schema_extra=AS_RESOURCE,
    )


class TrainingResources(StrictModel):
    """Where and how it runs; changing these continues the same work."""

    workers: WorkerRange = Field(
        default=None, description="None: one a GPU, or one a CPU up to two; [min, max]: what the cluster has, elastic"
    )
    gpu: bool | None = Field(default=None, description="None: if the cluster has one")
    cpus_per_worker: int = Field(default=1, ge=1, description="also torch threads of a worker without GPU")
    checkpoint_every: int = Field(default=500, ge=1, description="steps")
    checkpoint_keep: int = Field(default=2, ge=1, description="the last ones")
    checkpoint_keep_every: int | None = Field(default=None, ge=1, description="besides those at multiples of this step")
    resize_every_s: float = Field(
        default=60.0, gt=0, description="between looks at whether more workers fit (workers=[min, max])"
    )
    max_failures: int = Field(default=3, ge=0, description="restarts from the last checkpoint after a worker died")

    @property
    def least_workers(self) -> int | None:
        """The workers that it takes to start; None: as the cluster has them."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers


class TrainingConfig(Protocol):
    """What the engine and the worker group read of a training's configuration."""

    @property
    def seed(self) -> int: ...

    @property
    def groups_per_step(self) -> int:
        """Parts of a step that workers share out: DeepSpeed's micro-batches."""

    @property
    def optimizer(self) -> AdamWConfig: ...

    @property
    def deepspeed(self) -> DeepSpeedConfig: ...

    @property
    def log_every(self) -> int: ...

    @property
    def resources(self) -> TrainingResources: ...


def even_world(groups: int, workers: int) -> int:
    """The most of `workers` that the groups of a step can be shared out to evenly."""
    return max(n for n in range(1, workers + 1) if groups % n == 0)
