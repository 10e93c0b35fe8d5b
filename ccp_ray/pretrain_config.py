"""Configuration of pretraining. The defaults are those of CCP's kin (MSM), sized for one machine.

Names in brackets say where a default comes from: [kin] is the released code of MSM (arXiv 2302.01626, shunyuzh/MSM).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.monitor import MonitorConfig


class BankConfig(StrictModel):
    """Language-specific memory banks."""

    size: int = Field(default=1024, ge=0, description="keys a language; 0: in-group negatives only")
    warmup_steps: int = Field(default=400, ge=0, description="steps before bank keys count as negatives")
    max_age: int | None = Field(default=4, ge=1, description="steps after which a key no longer counts; None: never")


class MlmConfig(StrictModel):
    """Joint masked language modelling."""

    weight: float = Field(default=1.0, ge=0, description="of its loss; 0: none")
    sentences: int = Field(default=16, ge=1, description="a group")
    share: float = Field(default=0.15, gt=0, lt=1, description="of tokens chosen")


class OptimizerConfig(StrictModel):
    """AdamW; linear warm-up, then linear decay to zero [kin]."""

    lr: float = Field(default=4e-5, gt=0)
    head_lr: float | None = Field(default=None, gt=0, description="of the projection head; None: as lr")
    warmup_steps: int = Field(default=100, ge=0)
    head_only_steps: int = Field(default=0, ge=0, description="steps in which only the projection head learns")
    betas: tuple[float, float] = Field(default=(0.9, 0.98), strict=False)  # YAML has lists only
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, ge=0, description="gradient norm; 0: none")


class DeepSpeedConfig(StrictModel):
    """How DeepSpeed shards and computes."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    shared_memory: bool = Field(
        default=False,
        description="build DeepSpeed's shared-memory all-reduce for CPUs (needs a C++ compiler, 40 s once)",
    )


class PretrainResources(StrictModel):
    """Where and how it runs; changing these continues the same work."""

    workers: Annotated[int, Field(ge=1)] | Annotated[tuple[int, int], Field(strict=False)] | None = Field(
        default=None, description="None: one a GPU, or one a CPU up to two; [min, max]: what the cluster has, elastic"
    )
    gpu: bool | None = Field(default=None, description="None: if the cluster has one")
    cpus_per_worker: int = Field(default=1, ge=1, description="also torch threads of a worker without GPU")
    checkpoint_every: int = Field(default=500, ge=1, description="steps")
    checkpoint_keep: int = Field(default=2, ge=1, description="the last ones")
    checkpoint_keep_every: int | None = Field(default=None, ge=1, description="besides those at multiples of this step")
    max_failures: int = Field(default=3, ge=0, description="restarts from the last checkpoint after a worker died")

    @property
    def least_workers(self) -> int | None:
        """The workers that it takes to start; None: as the cluster has them."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @model_validator(mode="after")
    def _ordered(self) -> PretrainResources:
        if isinstance(self.workers, tuple) and not 1 <= self.workers[0] <= self.workers[1]:
            raise ValueError(f"workers [min, max] needs 1 <= min <= max, found {list(self.workers)}")
        return self


class PretrainConfig(StrictModel):
    """Contrastive context prediction."""

    seed: int = 0
    encoder: EncoderConfig = EncoderConfig()
    languages: list[str] | None = Field(default=None, description="None: all of the corpus")
    language_exponent: float = Field(default=0.3, ge=0, le=1, description="[kin]")
    steps: int = Field(default=2000, ge=1)
    groups_per_step: int = Field(default=4, ge=1)
    pairs_per_group: int = Field(default=64, ge=2)
    radius: int = Field(default=5, ge=1, description="context window, sentences to either side [kin]")
    max_tokens: int = Field(default=64, ge=8, description="a sentence, special tokens included [kin]")
    chunks: int = Field(default=4, ge=1, description="forward passes a group's sentences are cut into, by length")
    projection: int = Field(default=256, ge=2, description="dimensions of the projection head")
    temperature: float = Field(default=0.1, gt=0, description="[kin]")
    norm_momentum: float = Field(default=0.1, gt=0, le=1, description="of the running statistics")
    bank: BankConfig = BankConfig()
    mlm: MlmConfig = MlmConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    monitor: MonitorConfig = MonitorConfig()
    log_every: int = Field(default=10, ge=1, description="steps a metrics row stands for")
    resources: PretrainResources = PretrainResources()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if self.chunks > 2 * self.pairs_per_group:
            raise ValueError("chunks must not exceed twice pairs_per_group: a forward pass needs a sentence")
        return self


# How DeepSpeed shards and what it recomputes: like the number of workers, this changes results by rounding only, and a
# checkpoint is converted. So it is no part of an encoder's identity, and may change between runs of one --output.
_SHARDING = {"zero_stage", "activation_checkpointing", "shared_memory"}


def identity(config: PretrainConfig) -> dict[str, Any]:
    """The part of the configuration that decides the encoder, as plain JSON."""
    return config.model_dump(mode="json", exclude={"resources": True, "deepspeed": _SHARDING})


def even_world(groups: int, workers: int) -> int:
    """The most of `workers` that the groups of a step can be shared out to evenly."""
    return max(n for n in range(1, workers + 1) if groups % n == 0)
