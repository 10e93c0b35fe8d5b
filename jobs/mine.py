"""ccp-ray mine --config YAML --output URI: questions with hard negatives from an index of ours, as `finetune` reads."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from ccp_ray.errors import UsageError
from ccp_ray.mine import MineConfig, mine_passages
from ccp_ray.mine import mine as mine_index
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.mine_plan import plan_mine


def mine(
    output: Output,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the passages.")] = None,
    passages: Annotated[
        str | None, typer.Option(help="What to embed and index: a corpus, or rows of id, text.")
    ] = None,
    index: Annotated[str | None, typer.Option(help="An index that is there, instead of both.")] = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Mine hard negatives for the questions of a training set: embed, index and search the passages."""
    with reported():
        settings = load_config(MineConfig, config or (), overrides or ())
        if (index is None) == (encoder is None or passages is None) or (index and (encoder or passages)):
            raise UsageError("say what to search: either --index, or --encoder and --passages")
    if plan:
        show_plan(lambda: plan_mine(settings, encoder, passages, index), as_json)
    elif index is not None:
        run(lambda: mine_index(index, output, settings), output=output, address=address, as_json=as_json)
    else:
        asked = encoder or "", passages or ""
        run(lambda: mine_passages(*asked, output, settings), output=output, address=address, as_json=as_json)


if __name__ == "__main__":
    main(mine)
