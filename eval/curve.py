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
from typing import Any, NamedTuple

from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, find_artifact, open_output
from ccp_ray.config import StrictModel, semantic
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneSettings
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_name
from ccp_ray.ledger import put_bytes
from ccp_ray.progress import say
from ccp_ray.storage import absolute_uri, open_store
from ccp_ray.training_run import TrainingRun
from eval.evaluate import RESULTS, EvaluateConfig, benchmark_references, evaluate, load_any, settings_of, texts_of
from eval.loading import Loaded, refuse_for_sentences
from eval.metric_names import headline_metrics, variant_order
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

    Of a fine-tuning the exported step besides, and each step as it was trained: similarity, prompts and lengths are the
    run's where `config.evaluate` does not say others. `follow`: wait for the checkpoints and the end of a run that is
    not finished. Raises UsageError where `run` is no training run, keeps no checkpoint, or is unfinished and not
    followed (what is there was evaluated and stays); what `evaluate` raises of benchmarks and data.
    """
    training = TrainingRun.open(open_store(run))
    loaded = load_any(benchmarks, data, config.evaluate)
    how = as_trained(training, config.evaluate, loaded)
    refuse_for_sentences(loaded, asks(training, loaded), how.similarity)
    measures = _Measures(training, benchmarks, data, how, asks(training, loaded))
    settings = semantic(config) | {"benchmarks": sorted(benchmarks), "evaluate": settings_of(how, loaded)}
    source = InputRef(role="training", uri=absolute_uri(run), fingerprint=digest_json(training.request.identity()))
    inputs = [source, *benchmark_references(loaded, texts_of(loaded))]
    target = open_output(output, Request(kind="curve", config=settings, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    rows: list[EvaluationRow] = []
    missing: list[int] = []
    for step in _steps(training, config.every, follow, config.resources.poll_s):
        if _comes(training, step, follow, config.resources.poll_s):
            evaluated = measures.at(step, target.uri)
            rows += _rows(step, evaluated)
            _tell(step, evaluated)
        else:
            missing.append(step)
    if find_artifact(run) is None:
        raise UsageError(
            f"{run}: the run is not finished; {_listed(rows)} evaluated. Run again with --follow, or when it is"
        )
    if len(missing) and not any(row.step for row in rows):
        raise UsageError(f"{run}: keeps no checkpoint at multiples of {config.every}; see --every")
    if missing:
        say(f"curve: the run keeps no checkpoint of step {', '.join(map(str, missing))}: left out")
    rows.sort(key=lambda row: row.step)  # stable: a step's rows stay in their order
    body = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    summary = {"steps": sorted({row.step for row in rows}), "missing": missing, "last": _last(rows)}
    return target.finish([put_bytes(target.store, EVALUATIONS, body)], summary, {"seconds": time.monotonic() - started})


def asks(training: TrainingRun, loaded: Loaded) -> bool:
    """Whether the questions' encoder is another and is needed."""
    return training.two_encoders and bool(loaded.ranked())


def as_trained(training: TrainingRun, config: EvaluateConfig, loaded: Loaded) -> EvaluateConfig:
    """Collections by the similarity that was trained for; the prompts and the lengths that training had."""
    trained = training.config
    if not isinstance(trained, FinetuneSettings):
        return config
    changes: dict[str, Any] = {}
    if loaded.ranked() and "similarity" not in config.model_fields_set:
        changes["similarity"] = trained.similarity
    sides = {
        "questions": (trained.question_prompt, trained.question_tokens),
        "passages": (trained.passage_prompt, trained.passage_tokens),
    }
    for name, (prompt, tokens) in sides.items():
        asked: EmbedConfig = getattr(config, name)
        own = {"prompt": prompt if asked.prompt is None else asked.prompt, "max_tokens": asked.max_tokens or tokens}
        changes[name] = asked.model_copy(update=own)
    return config.model_copy(update=changes)


def _steps(training: TrainingRun, every: int, follow: bool, poll_s: float) -> Iterator[int]:
    """The last one comes when the run has ended (or is not followed); after it the exported one, if it is another."""
    last = training.steps
    yield from range(0, last, every)
    yield last
    while follow and find_artifact(training.store.root) is None:  # its last checkpoint comes before its encoder
        time.sleep(poll_s)
    whole = find_artifact(training.store.root)
    best = whole.summary.get("best_step", last) if whole else last
    if best != last and best % every:
        yield best


def _comes(training: TrainingRun, step: int, follow: bool, poll_s: float) -> bool:
    """Whether the encoder after `step` can be had, now or (followed) once the run has come there."""
    ledger, said = checkpoint_ledger(training.store), False
    while True:
        finished = find_artifact(training.store.root) is not None  # first: a run commits, then finishes
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


class _Measures(NamedTuple):
    """What is measured at a step, and how. asks: whether the questions' encoder is another and is needed."""

    training: TrainingRun
    benchmarks: Sequence[str]
    data: str | Mapping[str, str]
    config: EvaluateConfig
    asks: bool

    def at(self, step: int, output: str) -> Artifact:
        """The evaluation of one step's encoder; not made again where it is there.

        From the checkpoint wherever the run keeps it, so that an evaluation that was killed goes on with the same input
        when the run has ended meanwhile.
        """
        place = f"{output}/evaluations/{checkpoint_name(step)}"
        done = find_artifact(place)
        if done is not None:
            return done
        if step and checkpoint_name(step) not in checkpoint_ledger(self.training.store).committed():
            return self._evaluate(self.training.store.root, place)  # the end of a finished run
        from ccp_ray.checkpoint_export import export_checkpoint  # torch only where it is used

        encoder = export_checkpoint(self.training.store.root, step, f"{output}/encoders/{checkpoint_name(step)}")
        evaluated = self._evaluate(encoder.uri, place)
        for info in list(encoder.store.list()):
            encoder.store.delete(info.key)
        return evaluated

    def _evaluate(self, encoder: str, output: str) -> Artifact:
        """Of two encoders, the passages' one reads sentences and all but the questions of collections."""
        asking = f"{encoder}/question" if self.asks else None
        reading = f"{encoder}/passage" if self.training.two_encoders else encoder
        return evaluate(reading, self.benchmarks, self.data, output, config=self.config, query_encoder=asking)


def _rows(step: int, evaluated: Artifact) -> Iterator[EvaluationRow]:
    for name, result in json.loads(evaluated.read(RESULTS))["benchmarks"].items():
        for variant, score in sorted(result["variants"].items(), key=lambda one: variant_order(one[0])):
            for metric, value in score["macro"].items():
                rounded = round(float(value), 6)  # what a machine's rounding does not change
                yield EvaluationRow(step=step, benchmark=name, variant=variant, metric=metric, value=rounded)


def _tell(step: int, evaluated: Artifact) -> None:
    for name, variants in evaluated.summary["benchmarks"].items():
        metric = headline_metrics(list(next(iter(variants.values()))))[0]
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
