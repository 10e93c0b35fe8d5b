"""A benchmark's curve over a training run: every kept checkpoint evaluated, while the run goes on or after it.

    training run ──► checkpoint of step N ──► export ──► evaluate ──┐
                     (resources.checkpoint_keep_every keeps them)   ├──► evaluations.jsonl
                     step 0: the encoder before training         ───┘

It reads what the run committed to its store and nothing else: no step waits for it, it may run on other nodes, and what
was killed goes on where it stopped, as training does. Ray Train's own validation is bound to checkpoints that Ray Train
uploads and to its controller; ours are in the store, and a new driver evaluates what the last one left.

    encoders/step-N/       the exported encoder; deleted once it is evaluated
    evaluations/step-N/    an evaluation artifact of its own, kept
    evaluations.jsonl      {"step", "benchmark", "variant", "metric", "value"} a line, of the macro averages

Each step costs an export (one copy of the weights), an embedding job and the scoring.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, find_artifact, open_output
from ccp_ray.checkpoint_export import export_checkpoint
from ccp_ray.checkpoints import checkpoint_ledger, checkpoint_name
from ccp_ray.config import StrictModel, semantic
from ccp_ray.errors import UsageError
from ccp_ray.ledger import put_bytes
from ccp_ray.progress import say
from ccp_ray.storage import absolute_uri, open_store
from ccp_ray.training_run import TrainingRun
from eval.evaluate import RESULTS, EvaluateConfig, evaluate
from eval.report_curves import EVALUATIONS, EvaluationRow


class CurveResources(StrictModel):
    """How it waits; changing these continues the same work."""

    poll_s: float = Field(default=10.0, gt=0, description="between looks at a run that goes on")


class CurveConfig(StrictModel):
    """Which checkpoints, and how they are evaluated."""

    every: int = Field(ge=1, description="steps; a multiple of the run's resources.checkpoint_keep_every")
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: CurveResources = CurveResources()


def curve(
    run: str,
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    config: CurveConfig,
    follow: bool = False,
) -> Artifact:
    """Evaluate the encoder before training, the kept checkpoints of a run and its end. Returns the "curve" artifact.

    `follow`: wait for the checkpoints of a run that is not finished. Raises UsageError where `run` is no training run,
    keeps no checkpoint, or is unfinished and not followed (what is there was evaluated and stays).
    """
    training = TrainingRun.open(open_store(run))
    source = InputRef(role="training", uri=absolute_uri(run), fingerprint=digest_json(training.request.identity()))
    settings = semantic(config) | {"benchmarks": sorted(benchmarks)}
    target = open_output(output, Request(kind="curve", config=settings, inputs=[source]))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    rows: list[EvaluationRow] = []
    missing: list[int] = []
    for step in _steps(training.steps, config.every):
        if not _comes(training, step, follow, config.resources.poll_s):
            missing.append(step)
            continue
        evaluated = _evaluated(training, step, benchmarks, data, target.uri, config.evaluate)
        rows += _rows(step, evaluated)
        _tell(step, evaluated)
    if find_artifact(run) is None:
        raise UsageError(
            f"{run}: the run is not finished; {_listed(rows)} evaluated. Run again with --follow, or when it is"
        )
    if len(missing) and not any(row.step for row in rows):
        raise UsageError(f"{run}: keeps no checkpoint at multiples of {config.every}; see --every")
    if missing:
        say(f"curve: the run keeps no checkpoint of step {', '.join(map(str, missing))}: left out")
    body = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    summary = {"steps": sorted({row.step for row in rows}), "missing": missing, "last": _last(rows)}
    return target.finish([put_bytes(target.store, EVALUATIONS, body)], summary, {"seconds": time.monotonic() - started})


def _steps(last: int, every: int) -> list[int]:
    return [*range(0, last, every), last]


def _comes(training: TrainingRun, step: int, follow: bool, poll_s: float) -> bool:
    """Whether the encoder after `step` can be had, now or (followed) once the run has come there."""
    ledger, said = checkpoint_ledger(training.store), False
    while True:
        finished = (
            find_artifact(training.store.root) is not None
        )  # before the ledger: a run commits first, then finishes
        committed = ledger.committed()
        if step == 0 or checkpoint_name(step) in committed:
            return True
        if finished:
            return step == training.steps
        if not follow or any(name > checkpoint_name(step) for name in committed):
            return False
        if not said:
            say(f"curve: waiting for step {step:,}")
            said = True
        time.sleep(poll_s)


def _evaluated(
    training: TrainingRun,
    step: int,
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    config: EvaluateConfig,
) -> Artifact:
    """The evaluation of one step's encoder; not made again where it is there."""
    place = f"{output}/evaluations/step-{step:09d}"
    done = find_artifact(place)
    if done is not None:
        return done
    whole = find_artifact(training.store.root)
    if whole is not None and step == whole.summary.get("best_step", training.steps):
        return _evaluate(training, whole.uri, benchmarks, data, place, config)
    encoder = export_checkpoint(training.store.root, step, f"{output}/encoders/step-{step:09d}")
    evaluated = _evaluate(training, encoder.uri, benchmarks, data, place, config)
    for info in list(encoder.store.list()):
        encoder.store.delete(info.key)
    return evaluated


def _evaluate(
    training: TrainingRun,
    encoder: str,
    benchmarks: Sequence[str],
    data: str | Mapping[str, str],
    output: str,
    config: EvaluateConfig,
) -> Artifact:
    """Of two encoders, the questions' one asks and the passages' one reads all else."""
    if not training.two_encoders:
        return evaluate(encoder, benchmarks, data, output, config=config)
    asking, reading = f"{encoder}/question", f"{encoder}/passage"
    return evaluate(reading, benchmarks, data, output, config=config, query_encoder=asking)


def _rows(step: int, evaluated: Artifact) -> Iterator[EvaluationRow]:
    for name, result in json.loads(evaluated.read(RESULTS))["benchmarks"].items():
        for variant, score in result["variants"].items():
            for metric, value in score["macro"].items():
                rounded = round(float(value), 6)  # what a machine's rounding does not change
                yield EvaluationRow(step=step, benchmark=name, variant=variant, metric=metric, value=rounded)


def _tell(step: int, evaluated: Artifact) -> None:
    for name, variants in evaluated.summary["benchmarks"].items():
        metric = list(next(iter(variants.values())))[-1]
        figures = ", ".join(f"{variant} {100 * score[metric]:.1f}" for variant, score in variants.items())
        say(f"curve: step {step:,}: {name} {metric} {figures}")


def _listed(rows: Sequence[EvaluationRow]) -> str:
    steps = sorted({row.step for row in rows})
    return f"steps {', '.join(map(str, steps))} are" if len(steps) != 1 else f"step {steps[0]} is"


def _last(rows: Sequence[EvaluationRow]) -> dict[str, dict[str, dict[str, float]]]:
    """{benchmark: {variant: {metric: value}}} at the end of the run."""
    last = max(row.step for row in rows)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row.step == last:
            found.setdefault(row.benchmark, {}).setdefault(row.variant, {})[row.metric] = row.value
    return found
