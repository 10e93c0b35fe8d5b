"""Which encoder, and of what shape: apart from the encoder itself, so that reading a configuration needs no torch."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from ccp_ray.config import StrictModel

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
TrainedPooling = Literal["cls", "mean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
TRAINED_POOLINGS: tuple[TrainedPooling, ...] = get_args(TrainedPooling)


class ArchitectureConfig(StrictModel):
    """A small XLM-R-shaped encoder from scratch."""

    layers: int = Field(default=4, ge=1)
    hidden: int = Field(default=256, ge=8)
    heads: int = Field(default=4, ge=1)
    intermediate: int = Field(default=1024, ge=8)
    positions: int = Field(default=128, ge=8, description="longest input in tokens, special tokens included")
    dropout: float = Field(default=0.1, ge=0, lt=1)


class EncoderConfig(StrictModel):
    """What to train. Without a source: the encoder whose tokenizer the corpus took, else one from scratch."""

    source: str | None = Field(default=None, description="folder, s3://, hub name or package://")
    pooling: TrainedPooling | None = Field(default=None, description="None: as the source says; mean from scratch")
    architecture: ArchitectureConfig = ArchitectureConfig()
