"""ccp-ray baseline METHOD --benchmarks NAMES --data URI --output URI: scores of BM25 or of chance."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from eval.baseline import BaselinesConfig, evaluate_baseline
from eval.baselines import METHODS
from jobs.baseline_plan import plan_baseline
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.evaluate import benchmark_names, show_scores

Method = Annotated[str, typer.Argument(help=f"One of {', '.join(METHODS)}.")]
Benchmarks = Annotated[str, typer.Option(help="Comma-separated, with a collection to rank: mrtydi, xor_retrieve.")]
Data = Annotated[str, typer.Option(help="Folder or URI with the benchmarks' files, passages among them.")]


def baseline(
    method: Method,
    output: Output,
    benchmarks: Benchmarks,
    data: Data,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Rank a benchmark's passages by BM25 or by chance, and score that."""
    with reported():
        settings = load_config(BaselinesConfig, config or (), overrides or ())
    names = benchmark_names(benchmarks)
    if plan:
        show_plan(lambda: plan_baseline(method, names, data, settings), as_json)
        return
    run(
        lambda: evaluate_baseline(method, names, data, output, settings),
        output=output,
        address=address,
        as_json=as_json,
        show=show_scores,
    )


if __name__ == "__main__":
    main(baseline)
