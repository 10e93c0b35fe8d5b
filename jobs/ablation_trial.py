"""One run of an ablation: train one variant with one seed, evaluate it, keep what it measured as a small artifact.

    OUTPUT/SCALE/seed-N/documents, corpus          made once, shared by all variants
    OUTPUT/SCALE/seed-N/VARIANT/encoder            with its checkpoints: a run that was stopped goes on
    OUTPUT/SCALE/seed-N/VARIANT/trial              trial.json: measures, curves, problems, or how it died

Training is the `pretrain` job, evaluation is done in this process (`eval.in_process`). Training that breaks down and an
encoder that collapsed to a point are results and end the trial; any other error leaves it unfinished.
"""

from __future__ import annotations

import json
import time
from typing import Any

from ccp_ray.artifact import Artifact, Output, Request, open_artifact, open_output
from ccp_ray.config import semantic
from ccp_ray.errors import CollapseError, TrainingError
from ccp_ray.ledger import put_bytes
from ccp_ray.pretrain_job import pretrain
from ccp_ray.progress import say
from eval.ablation import UNTRAINED, Trial, died_trial
from eval.ablation_measures import pair_accuracies, score_measures, training_curves, training_measures
from eval.in_process import evaluate_in_process
from jobs.ablation_config import TrialPlan
from jobs.pipeline import Stages, run_untrained

TRIAL = "trial.json"


def open_trial(plan: TrialPlan, output: str) -> Output | Artifact:
    """The trial's artifact, finished or to be made. Raises DriftError where another configuration's trial is there."""
    config = plan.config
    stages = {name: semantic(getattr(config, name)) for name in ("pretrain", "embed", "calibrate", "evaluate")}
    what: dict[str, Any] = {"scale": plan.scale, "variant": plan.variant, "seed": plan.seed}
    what |= {"split": plan.split, "benchmarks": sorted(config.benchmarks)}
    corpus = open_artifact(f"{output}/{plan.group}/corpus", "corpus")
    request = Request(kind="trial", config=what | stages, inputs=[corpus.ref("corpus")])
    return open_output(f"{output}/{plan.name}/trial", request)


def run_trial(plan: TrialPlan, output: str) -> Artifact:
    """Run what is not finished of a trial. Needs its corpus, and a Ray session."""
    target = open_trial(plan, output)
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    try:
        trial, measured = _train_and_evaluate(plan, output)
    except (TrainingError, CollapseError) as error:
        say(f"{plan.name}: {error}")
        trial, measured = died_trial(plan.scale, plan.variant, plan.seed, str(error), plan.sentences), {}
    files = [put_bytes(target.store, TRIAL, trial.model_dump_json(indent=1).encode())]
    accuracies = {name: value for name, value in trial.measures.items() if name.startswith("accuracy.")}
    summary = accuracies | {"problems": len(trial.problems), "died": trial.died}
    return target.finish(files, summary, measured | {"seconds": time.monotonic() - started})


def read_trial(artifact: Artifact) -> Trial:
    """What a finished trial measured."""
    return Trial.model_validate_json(artifact.read(TRIAL))


def _train_and_evaluate(plan: TrialPlan, output: str) -> tuple[Trial, dict[str, Any]]:
    stages, config = Stages(f"{output}/{plan.group}"), plan.config
    corpus = open_artifact(f"{output}/{plan.group}/corpus", "corpus")
    prefix = f"{plan.variant}/"
    if plan.variant == UNTRAINED:
        encoder = run_untrained(stages, prefix, corpus, config)
    else:
        encoder = stages.run(f"{prefix}encoder", lambda uri: pretrain(corpus.uri, uri, config.pretrain)).uri
    scores = evaluate_in_process(
        encoder, corpus.uri, plan.data(output), (config.embed, config.calibrate, config.evaluate)
    )
    trial = Trial(
        scale=plan.scale,
        variant=plan.variant,
        seed=plan.seed,
        measures=score_measures(scores),
        pairs=pair_accuracies(scores),
    )
    if plan.variant == UNTRAINED:
        return trial, {}
    made = open_artifact(encoder, "encoder")
    rows = [json.loads(line) for line in made.read("metrics.jsonl").splitlines()]
    training = {
        "measures": trial.measures | training_measures(rows),
        "curves": training_curves(rows),
        "problems": made.summary["problems"],
    }
    return trial.model_copy(update=training), {"training_seconds": made.measured["seconds"]}
