"""ccp-ray evaluate ENCODER --benchmarks NAMES --data URI --output URI: an encoder's scores on benchmarks."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.config import load_config
from ccp_ray.session import machine_cpus
from eval.evaluate import BENCHMARKS, EvaluateConfig, load_benchmarks
from eval.evaluate import evaluate as evaluate_encoder
from jobs.command import (
    Address,
    AsJson,
    ConfigFiles,
    Output,
    Overrides,
    PlanOnly,
    headline,
    main,
    print_json,
    reported,
    run,
    show_plan,
)
from jobs.plan import Plan, embed_plan, source_shape

Benchmarks = Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(BENCHMARKS)}.")]
Data = Annotated[str, typer.Option(help="Folder or URI with the benchmark's files; for context, a corpus.")]
Calibration = Annotated[
    str | None, typer.Option(help="Calibration artifact; without it one is fitted on the benchmark's sentences.")
]


def evaluate(
    encoder: str,
    output: Output,
    benchmarks: Benchmarks,
    data: Data,
    calibration: Calibration = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Score an encoder on benchmarks, raw and after each calibration step."""
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    with reported():
        settings = load_config(EvaluateConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_evaluate(encoder, names, data, settings), as_json)
        return
    run(
        lambda: evaluate_encoder(encoder, names, data, output, calibration, settings),
        address=address,
        as_json=as_json,
        show=show_scores,
    )


def show_scores(artifact: Artifact, as_json: bool) -> None:
    """A line for each benchmark and variant."""
    if as_json:
        print_json(headline(artifact))
        return
    for name, variants in artifact.summary["benchmarks"].items():
        fitted = "corpus" if artifact.summary["calibration"][name] == "corpus" else "the benchmark's own"
        print(f"{name}, per cent (calibration fitted on {fitted} sentences)")
        for variant, scores in variants.items():
            print(_line(variant, scores))
        for variant, scores in artifact.summary["own_calibration"].get(name, {}).items():
            if variant != "raw":
                print(_line(f"{variant}*", scores))
    if artifact.summary["own_calibration"]:
        print("* calibration fitted on the benchmark's own sentences, each language alone")


def _line(variant: str, scores: dict[str, float]) -> str:
    return f"  {variant:<8}" + "".join(f"  {key} {100 * value:.1f}" for key, value in scores.items())


def plan_evaluate(encoder: str, names: list[str], data: str, config: EvaluateConfig) -> Plan:
    """The plan of embedding these benchmarks' texts."""
    counts = {name: len(benchmark.texts()) for name, benchmark in load_benchmarks(names, data, config).items()}
    lines = [(name, f"{count:,} sentences to embed") for name, count in counts.items()]
    width = 4 if config.embed.dtype == "float32" else 2
    embedded = embed_plan(sum(counts.values()), len(counts), source_shape(encoder), width, machine_cpus())
    figures = {name: float(count) for name, count in counts.items()} | embedded.figures
    return Plan(stage="evaluate", lines=[*lines, *embedded.lines], figures=figures)


if __name__ == "__main__":
    main(evaluate)
