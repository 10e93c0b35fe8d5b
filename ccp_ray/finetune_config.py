"""Configuration of fine-tuning for retrieval. The defaults are DPR's as CCP's authors used it.

[authors] is the code released with CCP (wuning0929/CCP_IJCAI22): Natural Questions, one hard negative, dot product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from ccp_ray.combinations import refuse
from ccp_ray.config import StrictModel, semantic
from ccp_ray.encoder_config import TrainedPooling
from ccp_ray.monitor import SpaceMonitorConfig
from ccp_ray.pair_sources import SourceConfig
from ccp_ray.training_config import AdamWConfig, DeepSpeedConfig, TrainingResources

Best = Literal["loss", "mrr", "last"]


class StartConfig(StrictModel):
    """An encoder to start from."""

    source: str = Field(description="folder, s3://, hub name or package://")
    pooling: TrainedPooling | None = Field(default=None, description="None: as the source says")


class FinetuneOptimizer(AdamWConfig):
    """AdamW as DPR has it [authors]."""

    lr: float = Field(default=1e-5, gt=0, description="[authors]")
    warmup_steps: int = Field(default=1237, ge=0, description="[authors]")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), strict=False)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=2.0, ge=0, description="gradient norm; 0: none [authors]")


class DevConfig(StrictModel):
    """How the dev questions are used."""

    every: int = Field(default=500, ge=1, description="steps between measurements; the first and the last are besides")
    limit: int | None = Field(default=None, ge=1, description="dev questions, the first ones; None: all")
    best: Best | None = Field(
        default=None, description="what the exported step is chosen by; None: the loss, or the last step without dev"
    )


class FinetuneSettings(StrictModel):
    """All of fine-tuning but its data."""

    seed: int = Field(default=42, description="[authors]")
    encoder: StartConfig
    passage_encoder: StartConfig | None = Field(
        default=None, description="of two encoders, what the passages' one starts from; None: as encoder"
    )
    tied: bool = Field(default=True, description="one encoder for both sides; false: two")
    max_bad_share: float = Field(default=0.01, ge=0, le=1, description="rows that may be unusable")
    language_exponent: float | None = Field(
        default=None, ge=0, le=1, description="share of a language ~ questions^exponent; None: every question as often"
    )
    similarity: Literal["dot", "cosine"] = Field(default="dot", description="[authors]")
    temperature: float = Field(default=1.0, gt=0, description="similarities are divided by it; with cosine 0.01 to 0.1")
    hard_negatives: int = Field(default=1, ge=0, description="of each question in a batch [authors]")
    negative_pool: int = Field(default=8, ge=1, description="hard negatives of a question to draw from, the first ones")
    few_negatives: Literal["refuse", "random"] = Field(
        default="refuse", description="random: questions with fewer get passages of other questions"
    )
    shuffle: bool = Field(
        default=True, description="draw positive and hard negatives by chance; false: the first ones [authors]"
    )
    question_tokens: int = Field(default=256, ge=4, description="special tokens included [authors]")
    passage_tokens: int = Field(default=256, ge=4, description="special tokens included [authors]")
    question_prompt: str = Field(default="", description="put before every question")
    passage_prompt: str = Field(default="", description="put before every passage")
    epochs: float = Field(default=20, gt=0, description="times that each question is seen [authors]")
    max_steps: int | None = Field(default=None, ge=1, description="instead of epochs")
    groups_per_step: int = Field(default=8, ge=1, description="parts of a batch that workers share out [authors]")
    questions_per_group: int = Field(default=6, ge=1, description="in one forward pass [authors]")
    chunks: int = Field(default=1, ge=1, description="forward passes a group's passages are cut into, by length")
    optimizer: FinetuneOptimizer = FinetuneOptimizer()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    dev: DevConfig = DevConfig()
    monitor: SpaceMonitorConfig = SpaceMonitorConfig()
    log_every: int = Field(default=10, ge=1, description="steps a metrics row stands for")
    resources: TrainingResources = TrainingResources()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passage_encoder is not None and self.tied:
            raise ValueError("passage_encoder with tied=true: one encoder reads both sides; set tied=false")
        if self.batch < 2 and not self.hard_negatives:
            raise ValueError("a batch of one question with hard_negatives=0 leaves nothing to tell its passage from")
        if self.hard_negatives > self.negative_pool:
            raise ValueError(f"hard_negatives={self.hard_negatives} is more than negative_pool={self.negative_pool}")
        if self.chunks > self.questions_per_group * (1 + self.hard_negatives):
            raise ValueError("chunks must not exceed a group's passages: a forward pass needs one")
        refuse(self, self.resources.gpu)
        return self

    @property
    def batch(self) -> int:
        """Questions a step."""
        return self.groups_per_step * self.questions_per_group

    def planned_steps(self, questions: int) -> int:
        """Of a run over so many training questions."""
        return self.max_steps or max(1, math.ceil(self.epochs * questions / self.batch))

    def starts(self) -> dict[str, StartConfig]:
        """The encoder to start from, by the role of what is trained: one for both sides, or two."""
        if self.tied:
            return {"encoder": self.encoder}
        return {"question": self.encoder, "passage": self.passage_encoder or self.encoder}


class FinetuneConfig(FinetuneSettings):
    """Dense retrieval: a question's vector near that of the passage that answers it."""

    train: list[SourceConfig] = Field(min_length=1)
    dev_data: list[SourceConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _chosen_by_what_is_measured(self) -> Self:
        if not self.dev_data and self.dev.best not in (None, "last"):
            raise ValueError(f"dev.best={self.dev.best}: there are no dev questions; name some in dev_data")
        return self

    @property
    def best(self) -> Best:
        """What the exported step is chosen by."""
        return self.dev.best or ("loss" if self.dev_data else "last")

    def starting_at(self, places: Mapping[str, str]) -> Self:
        """The same, its encoders where a run found them. places: URIs by role of an input."""
        starts = {name: getattr(self, name) for name in ("encoder", "passage_encoder") if name in places}
        return self.model_copy(
            update={name: start.model_copy(update={"source": places[name]}) for name, start in starts.items()}
        )

    def request(self) -> dict[str, Any]:
        """What decides the result, as plain JSON: without places, for encoders and data are inputs of their own."""
        dumped = semantic(self)
        for name in ("encoder", "passage_encoder"):
            if dumped[name] is not None:
                del dumped[name]["source"]
        for name in ("train", "dev_data"):
            dumped[name] = [{"lang": source["lang"]} for source in dumped[name]]
        return dumped
