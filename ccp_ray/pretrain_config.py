"""Configuration of pretraining. The defaults are those of CCP's kin (MSM), sized for one machine.

Names in brackets say where a default comes from: [kin] is the released code of MSM (arXiv 2302.01626, shunyuzh/MSM).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ccp_ray.combinations import refuse
from ccp_ray.config import AS_RESOURCE, StrictModel
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.errors import UsageError
from ccp_ray.monitor import MonitorConfig
from ccp_ray.training_config import AdamWConfig, DeepSpeedConfig, TrainingResources

Norm = Literal["asymmetric", "symmetric", "none", "layer"]
HeadStart = Literal["random", "identity"]


class BankConfig(StrictModel):
    """Language-specific memory banks."""

    size: int = Field(default=1024, ge=0, description="keys a language; 0: in-group negatives only")
    warmup_steps: int = Field(default=400, ge=0, description="steps before bank keys count as negatives")
    max_age: int | None = Field(default=4, ge=1, description="steps after which a key no longer counts; None: never")
    kind: Literal["language", "shared"] = Field(default="language", description="shared: one ring for all languages")
    fill: Literal["empty", "random"] = Field(default="empty", description="random: starts full of random unit vectors")
    dtype: Literal["fp32", "bf16"] = Field(default="fp32", description="of the stored keys")
    placement: Literal["replicated", "sharded"] = Field(
        default="replicated",
        description="sharded: each worker holds its share of every ring; the loss is the same",
        json_schema_extra=AS_RESOURCE,
    )
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="decay of a momentum key encoder; None: keys are the encoder's own"
    )

    @model_validator(mode="after")
    def _consistent(self) -> BankConfig:
        if self.fill == "random" and self.max_age is not None and self.max_age < self.warmup_steps:
            raise ValueError(
                f"fill=random does nothing with max_age={self.max_age}: its vectors are older when the bank joins "
                f"(warmup_steps={self.warmup_steps}); set max_age=null"
            )
        return self

    def memory(self, languages: int, dimensions: int, workers: int) -> int:
        """Bytes a worker: keys, hashes and steps of its slots."""
        rings = languages if self.kind == "language" else 1
        slots = -(-self.size // workers) if self.placement == "sharded" else self.size
        return rings * slots * (dimensions * (4 if self.dtype == "fp32" else 2) + 16)


class MlmConfig(StrictModel):
    """Joint masked language modelling."""

    weight: float = Field(default=1.0, ge=0, description="of its loss; 0: none")
    sentences: int = Field(default=16, ge=1, description="a group")
    share: float = Field(default=0.15, gt=0, lt=1, description="of tokens chosen")


class OptimizerConfig(AdamWConfig):
    """Of the encoder and of its projection head [kin]."""

    head_lr: float | None = Field(default=None, gt=0, description="of the projection head; None: as lr")
    head_only_steps: int = Field(default=0, ge=0, description="steps in which only the projection head learns")


class PretrainConfig(StrictModel):
    """Contrastive context prediction."""

    seed: int = 0
    encoder: EncoderConfig = EncoderConfig()
    languages: list[str] | None = Field(default=None, description="None: all of the corpus")
    language_exponent: float = Field(default=0.3, ge=0, le=1, description="[kin]")
    steps: int = Field(default=2000, ge=1)
    groups_per_step: int = Field(default=4, ge=1)
    pairs_per_group: int = Field(default=64, ge=1, description="batch norm takes its statistics over one side's")
    mixed_groups: bool = Field(default=False, description="a group's pairs are of all languages (ablation)")
    radius: int = Field(default=5, ge=1, description="context window, sentences to either side [kin]")
    max_tokens: int = Field(default=64, ge=8, description="a sentence, special tokens included [kin]")
    chunks: int = Field(default=4, ge=1, description="forward passes a group's sentences are cut into, by length")
    projection: int = Field(default=256, ge=2, description="dimensions of the projection head")
    temperature: float = Field(default=0.1, gt=0, description="[kin]")
    head_start: HeadStart = Field(
        default="random",
        description="identity: at first it passes on the normalised vector; projection is then the encoder's own width",
    )
    norm: Norm = Field(default="asymmetric", description="of the projection head; all but asymmetric: ablation")
    norm_momentum: float = Field(default=0.1, gt=0, le=1, description="of the running statistics (norm=asymmetric)")
    bank: BankConfig = BankConfig()
    mlm: MlmConfig = MlmConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    monitor: MonitorConfig = MonitorConfig()
    log_every: int = Field(default=10, ge=1, description="steps a metrics row stands for")
    resources: TrainingResources = TrainingResources()

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if self.chunks > 2 * self.pairs_per_group:
            raise ValueError("chunks must not exceed twice pairs_per_group: a forward pass needs a sentence")
        if 0 < self.bank.size < self.pairs_per_group:
            raise ValueError(
                f"bank.size={self.bank.size} is less than the keys of one group "
                f"(pairs_per_group={self.pairs_per_group}); make it larger, or 0 for no bank"
            )
        if self.pairs_per_group < 2 and self.norm in ("asymmetric", "symmetric"):
            raise ValueError(
                f"norm={self.norm} takes its statistics over a group, and pairs_per_group=1 has variance 0; set "
                "pairs_per_group to 2 or more (of 2 each feature keeps only its sign), or norm=layer"
            )
        if self.pairs_per_group < 2 and not self.bank.size:
            raise ValueError("pairs_per_group=1 with bank.size=0 leaves no negative to tell the context from")
        if self.mixed_groups and self.bank.size and self.bank.kind != "shared":
            raise ValueError(
                f"mixed_groups=true with bank.kind={self.bank.kind}: a group of all languages has no language whose "
                "bank it could use; set bank.kind=shared or bank.size=0"
            )
        refuse(self, self.resources.gpu)
        return self


def head_width(dimensions: int, start: HeadStart) -> int:
    """Features inside the projection head: started as the identity it holds x and -x."""
    return 2 * dimensions if start == "identity" else dimensions


def check_head(config: PretrainConfig, hidden: int) -> None:
    """Raises UsageError where the head cannot start as asked on an encoder of `hidden` dimensions."""
    if config.head_start == "identity" and config.projection != hidden:
        raise UsageError(
            f"projection={config.projection}: head_start=identity needs the encoder's number of dimensions, {hidden}; "
            f"set projection={hidden}, or head_start=random"
        )
