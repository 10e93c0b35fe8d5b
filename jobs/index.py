"""ccp-ray index EMBEDDINGS --output URI [--calibration URI] [--reuse URI]: embeddings in, sharded FAISS index out."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from ccp_ray.index import IndexConfig, plan_task
from ccp_ray.index import index as build_index
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import index_plan

Calibration = Annotated[str | None, typer.Option(help="Calibration artifact to apply to the vectors.")]
Reuse = Annotated[
    list[str] | None,
    typer.Option(help="An earlier index: its quantiser and its shards are kept where they still hold; repeatable."),
]


def index(
    embeddings: str,
    output: Output,
    calibration: Calibration = None,
    reuse: Reuse = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Build a sharded index: exact by default, or as factory, memory and recall say.

    --set memory=2GB --set recall=0.95 chooses a factory, prints why, and measures the recall; --set factory=IVF1024,SQ8
    takes that one. See --plan.
    """
    with reported():
        settings = load_config(IndexConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: index_plan(plan_task(embeddings, settings, calibration, reuse or ())), as_json)
    else:
        run(
            lambda: build_index(embeddings, output, settings, calibration, reuse or ()),
            output=output,
            address=address,
            as_json=as_json,
        )


if __name__ == "__main__":
    main(index)
