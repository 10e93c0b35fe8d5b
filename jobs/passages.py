"""ccp-ray passages --squad URI --output URI: passage sets in the formats of Mr.TyDi and XOR-Retrieve, of any size."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from eval.passage_sets import PassagesConfig, make_passages
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, main, reported, run

SquadFolder = Annotated[str, typer.Option("--squad", help="Folder with NAME.LANG.json in SQuAD's format (XQuAD).")]


def passages(
    output: Output,
    squad: SquadFolder,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Write passage sets with questions in the formats of Mr.TyDi and XOR-Retrieve, of any size."""
    with reported():
        settings = load_config(PassagesConfig, config or (), overrides or ())
    run(lambda: make_passages(squad, output, settings), output=output, address=address, as_json=as_json)


if __name__ == "__main__":
    main(passages)
