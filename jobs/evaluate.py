"""ccp-ray evaluate ENCODER --benchmarks NAMES --data URI --output URI: an encoder's scores on benchmarks.

ccp-ray evaluate --run FILE --benchmarks NAME --data URI --output URI: the scores of a run file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.config import load_config
from ccp_ray.errors import UsageError
from eval.evaluate import BENCHMARKS, EvaluateConfig
from eval.evaluate import evaluate as evaluate_encoder
from eval.evaluation_read import read_runs
from eval.official_counts import in_short
from eval.run_scores import score_runs
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
from jobs.evaluate_plan import plan_evaluate

Encoder = Annotated[
    str | None,
    typer.Argument(help="Encoder: artifact, Hugging Face folder or name, s3://, package://; not with --run."),
]
Benchmarks = Annotated[
    str, typer.Option(help=f"Comma-separated: {', '.join(BENCHMARKS)}, or a Python file of your own (mine.py).")
]
Data = Annotated[str, typer.Option(help="Folder or URI with the benchmark's files; for context, a corpus.")]
Calibration = Annotated[
    str | None,
    typer.Option(help="Calibration artifact; without it one is fitted on the benchmark's sentences, rankings are raw."),
]
QueryEncoder = Annotated[
    str | None,
    typer.Option(help="Another encoder for questions; ENCODER is that of passages. Benchmarks with a collection only."),
]
Cache = Annotated[str | None, typer.Option(help="Folder or s3:// URI that keeps embeddings for other evaluations.")]
Runs = Annotated[
    list[str] | None, typer.Option("--run", help="Score this run (.trec, predictions .json, or a folder). Repeatable.")
]

_FITTED = {
    "corpus": "calibration fitted on corpus sentences",
    "benchmark": "calibration fitted on the benchmark's own sentences",
    "none": "not calibrated",
}


def evaluate(
    output: Output,
    benchmarks: Benchmarks,
    data: Data,
    encoder: Encoder = None,
    calibration: Calibration = None,
    query_encoder: QueryEncoder = None,
    cache: Cache = None,
    runs: Runs = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Score an encoder on benchmarks, raw and after each calibration step; or score run files."""
    names = benchmark_names(benchmarks)
    with reported():
        settings = load_config(EvaluateConfig, config or (), overrides or ())
        used = {"--calibration": calibration, "--query-encoder": query_encoder, "--cache": cache}
        encoding = _check(encoder, runs, used, plan)
    if plan:
        given = calibration is not None, query_encoder is not None
        show_plan(lambda: plan_evaluate(encoding, names, data, settings, *given), as_json)
        return

    def work() -> Artifact:
        if runs:
            return score_runs(runs, names, data, output, settings)
        return evaluate_encoder(
            encoding, names, data, output, calibration, settings, query_encoder=query_encoder, cache=cache
        )

    run(work, output=output, address=address, as_json=as_json, show=show_scores)


def benchmark_names(listed: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def _check(encoder: str | None, runs: Sequence[str] | None, used: Mapping[str, str | None], plan: bool) -> str:
    """The encoder; empty where runs are scored. Raises UsageError for both, neither, or what only one of them has."""
    if not runs:
        if encoder is None:
            raise UsageError("give an ENCODER to evaluate, or --run FILE to score a run")
        return encoder
    odd = [option for option, value in {"ENCODER": encoder, **used}.items() if value is not None]
    odd += ["--plan"] if plan else []
    if odd:
        raise UsageError(f"--run scores what is ranked already; leave out {odd[0]}")
    return ""


def show_scores(artifact: Artifact, as_json: bool) -> None:
    """A table for each benchmark, a line for each variant; which averages lack something."""
    if as_json:
        print_json(headline(artifact))
        return
    own = artifact.summary["own_calibration"]
    read = read_runs([artifact], [""])[0].benchmarks
    for name, variants in artifact.summary["benchmarks"].items():
        starred = {f"{variant}*": score for variant, score in own.get(name, {}).items() if variant != "raw"}
        print(f"{name}, per cent ({_FITTED[artifact.summary['calibration'][name]]})")
        for line in _table({**variants, **starred}):
            print(line)
        for average, lack in read[name].incomplete.items():
            print(f"  incomplete: {'the mean' if average == 'macro' else f'the mean of the {average}'} {lack}")
        if read[name].unofficial:
            print(f"  not the official data: {in_short(read[name].unofficial)}")
    if own:
        print("* calibration fitted on the benchmark's own sentences, each language alone")
    for name in artifact.summary.get("missing", ()):
        print(f"{name}: left out, no data")


def _table(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Metrics as columns; per cent with one decimal."""
    metrics = list(dict.fromkeys(key for score in variants.values() for key in score))
    head = ["", *metrics]
    rows = [[name, *(_cell(score.get(key)) for key in metrics)] for name, score in variants.items()]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in (head, *rows)
    ]


def _cell(value: object) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) else ""


if __name__ == "__main__":
    main(evaluate)
