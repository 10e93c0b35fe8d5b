"""ccp-ray baseline METHOD --benchmarks NAMES --data URI --output URI: scores of BM25 or of chance."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.config import load_config
from eval.baseline import RANKED, BaselinesConfig, evaluate_baseline
from eval.baselines import METHODS
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, headline, main, print_json, reported, run

Method = Annotated[str, typer.Argument(help=f"One of {', '.join(METHODS)}.")]
Benchmarks = Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(RANKED)}.")]
Data = Annotated[str, typer.Option(help="Folder or URI with the benchmarks' files, passages among them.")]


def baseline(
    method: Method,
    output: Output,
    benchmarks: Benchmarks,
    data: Data,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Rank a benchmark's passages by BM25 or by chance, and score that."""
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    with reported():
        settings = load_config(BaselinesConfig, config or (), overrides or ())
    run(
        lambda: evaluate_baseline(method, names, data, output, settings),
        address=address,
        as_json=as_json,
        show=show_baseline,
    )


def show_baseline(artifact: Artifact, as_json: bool) -> None:
    """A line for each benchmark."""
    if as_json:
        print_json(headline(artifact))
        return
    for name, variants in artifact.summary["benchmarks"].items():
        print(f"{name}, per cent" + "".join(f"  {key} {100 * value:.1f}" for key, value in variants["raw"].items()))


if __name__ == "__main__":
    main(baseline)
