"""ccp-ray index EMBEDDINGS --output URI [--calibration URI]: embeddings in, sharded FAISS index out."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import open_artifact
from ccp_ray.config import load_config
from ccp_ray.index import IndexConfig
from ccp_ray.index import index as build_index
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import index_plan

Calibration = Annotated[str | None, typer.Option(help="Calibration artifact to apply to the vectors.")]


def index(
    embeddings: str,
    output: Output,
    calibration: Calibration = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Build a sharded exact index of unit vectors (cosine)."""
    with reported():
        settings = load_config(IndexConfig, config or (), overrides or ())
    if plan:
        width = 4 if settings.dtype == "float32" else 2
        show_plan(lambda: index_plan(open_artifact(embeddings, "embeddings"), settings.shard_rows, width), as_json)
    else:
        run(lambda: build_index(embeddings, output, settings, calibration), address=address, as_json=as_json)


if __name__ == "__main__":
    main(index)
