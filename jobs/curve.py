"""ccp-ray curve RUN --every N --benchmarks NAMES --data URI --output URI [--follow]: scores over a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.config import load_config
from eval.curve import CurveConfig
from eval.curve import curve as evaluate_run
from eval.metric_names import headline_metrics
from eval.report_curves import EVALUATIONS, EvaluationRow, read_evaluations
from jobs.columns import columns
from jobs.command import (
    Address,
    AsJson,
    ConfigFiles,
    Output,
    Overrides,
    PlanOnly,
    TrainingRun,
    headline,
    main,
    print_json,
    reported,
    run,
    show_plan,
)
from jobs.curve_plan import plan_curve
from jobs.evaluate import Benchmarks, Data, benchmark_names


def curve(
    training: TrainingRun,
    output: Output,
    every: Annotated[int, typer.Option(min=1, help="Steps; the run must keep these checkpoints (keep_every).")],
    benchmarks: Benchmarks,
    data: Data,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for the checkpoints of a run that goes on.")] = False,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Score the kept checkpoints of a training run on benchmarks, while it goes on or after it."""
    names = benchmark_names(benchmarks)
    with reported():
        settings = load_config(CurveConfig, config or (), overrides or (), {"every": every})
    if plan:
        show_plan(lambda: plan_curve(training, names, data, settings), as_json)
        return
    run(
        lambda: evaluate_run(training, names, data, output, settings, follow),
        output=output,
        address=address,
        as_json=as_json,
        show=show_curve,
    )


def show_curve(artifact: Artifact, as_json: bool) -> None:
    """A table for each benchmark and the metrics that it is known by: a line a step, a column a variant."""
    if as_json:
        print_json(headline(artifact))
        return
    rows = read_evaluations(artifact.read(EVALUATIONS), artifact.store.uri(EVALUATIONS))
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark]
        for metric in headline_metrics(list(dict.fromkeys(row.metric for row in own))):
            print(f"{benchmark}, {metric}, per cent")
            for line in curve_lines([row for row in own if row.metric == metric]):
                print(f"  {line}")


def curve_lines(rows: Sequence[EvaluationRow]) -> list[str]:
    """Of one benchmark and metric."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    values = {(row.step, row.variant): f"{100 * row.value:.1f}" for row in rows}
    steps = sorted({row.step for row in rows})
    table = [
        ["step", *variants],
        *([f"{step:,}", *(values.get((step, one), "") for one in variants)] for step in steps),
    ]
    return list(columns(table, right=True))


if __name__ == "__main__":
    main(curve)
