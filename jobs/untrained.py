"""ccp-ray untrained ENCODER --output URI: an encoder of the same shape with random weights, a baseline."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.command import AsJson, Output, main, run


def untrained(
    encoder: Annotated[str, typer.Argument(help="Folder, s3://, hub name or package://.")],
    output: Output,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write an encoder of the same shape with random weights, as a baseline."""
    from ccp_ray import untrained as module  # torch only where it is used

    run(lambda: module.untrained(encoder, output, seed), output=output, address=None, as_json=as_json)


if __name__ == "__main__":
    main(untrained)
