"""ccp-ray export RUN --step N --output URI: a kept checkpoint of a training run in, encoder out."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.command import AsJson, Output, TrainingRun, main, run


def export(
    training: TrainingRun,
    output: Output,
    step: Annotated[int, typer.Option(help="Of a kept checkpoint (checkpoint_keep_every); 0: before training.")],
    as_json: AsJson = False,
) -> None:
    """Write the encoder of a kept checkpoint."""
    from ccp_ray.checkpoint_export import export_checkpoint  # torch only where it is used

    run(lambda: export_checkpoint(training, step, output), output=output, address=None, as_json=as_json)


if __name__ == "__main__":
    main(export)
