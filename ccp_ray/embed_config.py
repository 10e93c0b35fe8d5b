"""How texts become vectors: the configuration of `embed`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ccp_ray.config import AS_RESOURCE, StrictModel, semantic
from ccp_ray.encoder_config import Pooling
from ccp_ray.worker_range import WorkerRange

# What decides which rows there are, not what becomes of a row.
_SELECTION = {"split", "limit", "max_bad_share", "piece_rows"}


class EmbedResources(StrictModel):
    """Actors that encode and that tokenise; changing these continues the same work."""

    workers: WorkerRange = Field(
        default=None,
        description="actors that hold the model, or [min, max]; None: one a GPU, else one a CPU, for 256 rows at least",
    )
    tokenizers: int | None = Field(
        default=None, ge=1, description="at most; None: one for eight CPUs, on GPUs one for two CPUs"
    )
    gpu: bool | None = Field(default=None, description="None: if the cluster has one")


class EmbedConfig(StrictModel):
    """How texts become vectors."""

    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bf16 where native")
    dtype: Literal["float16", "float32"] = Field(default="float16", description="of the stored vectors")
    pooling: Pooling | None = Field(default=None, description="None: as the encoder's folder says")
    max_tokens: int | None = Field(default=None, ge=4, description="None: as the encoder's folder says")
    prompt: str | None = Field(default=None, description="put before every text; None: the folder's default prompt")
    token_budget: int | None = Field(
        default=None,
        ge=64,
        description="padded tokens a forward pass; None: as suits the device; changing it continues the same work",
        json_schema_extra=AS_RESOURCE,
    )
    split: Literal["train", "dev"] | None = Field(default=None, description="of a corpus; None: both")
    limit: int | None = Field(default=None, ge=1, description="rows of each language, the first ones; None: all")
    max_bad_share: float = Field(
        default=0.01, ge=0, le=1, description="rows that may be bad when texts are not a corpus"
    )
    piece_rows: int = Field(default=65_536, ge=1, description="rows a piece when texts are not a corpus")
    resources: EmbedResources = EmbedResources()

    def of_a_row(self) -> dict[str, Any]:
        """The part that decides what vector a row gets."""
        return {name: value for name, value in semantic(self).items() if name not in _SELECTION}
