"""The names of a pipeline's stages in their order, left in its output for whoever looks on (`ccp-ray status`).

They are folders of the output. One that is not there yet has not begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError
from ccp_ray.storage import Store, open_store

if TYPE_CHECKING:
    from jobs.pipeline import PipelineConfig

FILE = "_pipeline.json"


class PipelineStages(StrictModel):
    """What the file holds."""

    stages: list[str]


def planned_stages(config: PipelineConfig) -> list[str]:
    """All stages of a recipe."""
    judged = ("embeddings", "calibration", "evaluation")
    from_scratch = not (config.pretrain.encoder.source or config.prepare.tokenizer.source)
    return [
        *(["documents"] if config.languages else []),
        "corpus",
        *(["baseline/encoder"] if config.baseline and from_scratch else []),
        *([f"baseline/{name}" for name in judged] if config.baseline else []),
        "encoder",
        *(["curve"] if config.curve else []),
        *judged,
        "index",
        "report",
    ]


def write_stages(output: str, stages: Sequence[str]) -> None:
    """Leave them at the pipeline's root, before its first stage."""
    open_store(output).write(FILE, PipelineStages(stages=list(stages)).model_dump_json().encode())


def read_stages(store: Store) -> list[str]:
    """Of the pipeline at this root, in order; none where there is no pipeline. Raises DataError where damaged."""
    try:
        return PipelineStages.model_validate_json(store.read(FILE)).stages
    except FileNotFoundError:
        return []
    except ValueError:
        raise DataError(f"{store.uri(FILE)}: not written by this program, or damaged; remove it") from None
