"""ccp-ray prepare DOCUMENTS… --output URI: documents in, corpus out."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from ccp_ray.documents import find_documents
from ccp_ray.prepare import PrepareConfig
from ccp_ray.prepare import prepare as make_corpus
from ccp_ray.session import machine_cpus
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import Plan, prepare_plan


def prepare(
    documents: Annotated[list[str], typer.Argument(help="Files, folders or globs: JSON lines, parquet, LANG/*.txt.")],
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Split documents into sentences and tokens, by language."""
    with reported():
        settings = load_config(PrepareConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_prepare(documents), as_json)
    else:
        run(lambda: make_corpus(documents, output, settings), output=output, address=address, as_json=as_json)


def plan_prepare(documents: list[str]) -> Plan:
    """The plan of reading these documents."""
    files = find_documents(documents)
    return prepare_plan(len(files), sum(file.bytes for file in files), machine_cpus())


if __name__ == "__main__":
    main(prepare)
