"""What a curve will need: an export and an evaluation (`jobs.evaluate_plan`) for each checkpoint that is kept."""

from __future__ import annotations

from ccp_ray.artifact import find_artifact, open_artifact
from ccp_ray.finetune_config import FinetuneSettings
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_name
from ccp_ray.storage import open_store
from ccp_ray.training_run import TrainingRun
from eval.curve import CurveConfig, as_trained, asks
from eval.evaluate import load_any
from eval.loading import refuse_for_sentences
from jobs.evaluate_plan import evaluation_plan
from jobs.memory import EncoderShape
from jobs.plan import Plan, duration, megabytes, source_shape
from jobs.pretrain import trained_shape

_EXPORTED_PER_S = 100e6  # bytes of weights, read and written


def plan_curve(run: str, names: list[str], data: str, config: CurveConfig) -> Plan:
    """Of a run, finished or not: its checkpoints as they will be kept. Raises UsageError as the curve would."""
    training = TrainingRun.open(open_store(run))
    loaded = load_any(names, data, config.evaluate)
    how = as_trained(training, config.evaluate, loaded)
    refuse_for_sentences(loaded, asks(training, loaded), how.similarity)
    shape = _shape(training)
    each = evaluation_plan(shape, loaded, how, calibrated=False)
    steps = _steps(training, config.every)
    weights = 4.0 * shape.parameters * (2 if training.two_encoders else 1)
    seconds = each.figures["seconds"] + each.figures.get("search_seconds", 0.0) + weights / _EXPORTED_PER_S
    lines = [
        (
            "steps",
            f"{len(steps):,} of {training.steps:,}: {', '.join(f'{step:,}' for step in steps[:12])}{_more(steps)}",
        ),
        *((f"each: {name}", value) for name, value in each.lines),
        ("each: export", f"{megabytes(weights)}, deleted when it is evaluated"),
        ("time", f"about {duration(len(steps) * seconds)}, and the start of each evaluation's workers"),
    ]
    figures = each.figures | {"steps": len(steps), "bytes": weights, "seconds": len(steps) * seconds}
    return Plan(stage="curve", lines=lines, figures=figures)


def _steps(training: TrainingRun, every: int) -> list[int]:
    """Those that a curve evaluates: of a finished run the ones that it kept, of another all that it may keep yet."""
    wanted = [*range(0, training.steps, every), training.steps]
    whole = find_artifact(training.store.root)
    if whole is None:
        return wanted
    kept = checkpoint_ledger(training.store).committed()
    best = whole.summary.get("best_step", training.steps)
    found = [step for step in wanted if step in (0, training.steps) or checkpoint_name(step) in kept]
    return found + ([best] if best not in wanted else [])


def _more(steps: list[int]) -> str:
    return f", and {len(steps) - 12} more" if len(steps) > 12 else ""


def _shape(training: TrainingRun) -> EncoderShape:
    """Of the encoder that reads passages and sentences."""
    config = training.config
    if isinstance(config, FinetuneSettings):
        return source_shape((config.passage_encoder or config.encoder).source)
    corpus = next(ref.uri for ref in training.request.inputs if ref.role == "corpus")
    return trained_shape(open_artifact(corpus, "corpus"), config)
