"""Configuration of an index: what the shards hold, how it is chosen, how it is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel
from ccp_ray.sizes import parse_bytes

Metric = Literal["cosine", "inner_product"]


class IndexResources(StrictModel):
    """Changing these continues the same work."""

    cpus_per_task: float = Field(default=1, gt=0, description="of a task that builds or measures a shard")
    train_cpus: float | None = Field(default=None, gt=0, description="of the training; None: all of the largest node")
    gpu: bool | None = Field(default=None, description="None: if the cluster has one, FAISS can use it, and it helps")


class IndexConfig(StrictModel):
    """What the shards hold. With nothing said: every vector, searched exactly."""

    shard_rows: int = Field(default=1_000_000, ge=1, description="rows a shard at most, unless one piece has more")
    dtype: Literal["float32", "float16"] = Field(default="float32", description="of the vectors in an exact index")
    metric: Metric = Field(default="cosine", description="cosine: unit vectors; inner_product: vectors as they are")
    factory: str | None = Field(
        default=None, description="FAISS factory string; None: chosen, exact if nothing is said"
    )
    memory: str | None = Field(default=None, description="bytes that all shards may take together, such as 2GB")
    recall: float | None = Field(default=None, gt=0, le=1, description="recall@k to reach; 0.95 where it is not exact")
    recall_k: int = Field(default=10, ge=1, description="neighbours that are compared")
    recall_queries: int = Field(default=1000, ge=1, description="held-out rows that are searched for")
    train_rows: int | None = Field(default=None, ge=1, description="None: 64 a list of an IVF, at least 65,536")
    search_parameters: str | None = Field(default=None, description="nprobe=16 or efSearch=64; None: from the recall")
    merge: bool = Field(default=False, description="all shards become one, which search maps into memory")
    seed: int = Field(default=0, ge=0, description="of the sample of rows to train and to measure on")
    resources: IndexResources = IndexResources()

    @model_validator(mode="after")
    def _consistent(self) -> IndexConfig:
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.factory is not None and self.dtype != "float32":
            raise ValueError("dtype: a factory says itself how vectors are stored (SQfp16); leave one of them out")
        return self

    @property
    def budget(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)
