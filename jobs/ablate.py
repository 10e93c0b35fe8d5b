"""ccp-ray ablate --output URI: what does each ingredient of the method bring? Variants, seeds, and a judged page."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from ccp_ray.artifact import Artifact
from ccp_ray.config import load_config
from ccp_ray.errors import UsageError
from ccp_ray.session import machine_cpus
from eval.ablation import UNTRAINED
from jobs.ablation_config import AblationConfig, TrialPlan, plan_trials
from jobs.ablation_runs import ablate as run_ablation
from jobs.ablation_runs import runs_at_once
from jobs.command import (
    Address,
    AsJson,
    ConfigFiles,
    Output,
    Overrides,
    PlanOnly,
    main,
    reported,
    run,
    show_artifact,
    show_plan,
)
from jobs.pipeline import RECIPES
from jobs.plan import Plan, architecture_shape, duration, megabytes, pretrain_plan

RECIPE = RECIPES / "ablation.yaml"
_OTHER_STAGES_S = 30.0  # of a run: starting, embedding, calibrating and evaluating
_CORPUS_S = 12.0
_RUN_BYTES, _RAY_BYTES = 1.6e9, 0.8e9

Seeds = Annotated[str | None, typer.Option(help="Comma-separated; each is other languages and other weights.")]
Variants = Annotated[str | None, typer.Option(help="Comma-separated names; without it all of the recipe.")]
Scales = Annotated[str | None, typer.Option(help="Comma-separated names of the recipe's scales.")]


def ablate(
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    seeds: Seeds = None,
    variants: Variants = None,
    scales: Scales = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Train the method's variants on generated languages over several seeds and judge its claims."""
    with reported():
        chosen: dict[str, Any] = {}
        chosen |= {"seeds": [_whole(seed) for seed in _listed(seeds)]} if seeds else {}
        chosen |= {"chosen_variants": _listed(variants)} if variants else {}
        chosen |= {"chosen_scales": _listed(scales)} if scales else {}
        settings = load_config(AblationConfig, config or [str(RECIPE)], overrides or (), chosen)
    if plan:
        show_plan(lambda: plan_ablation(settings), as_json)
    else:
        run(lambda: run_ablation(settings, output), output=output, address=address, as_json=as_json, show=_show)


def plan_ablation(config: AblationConfig) -> Plan:
    """Runs, steps, time and memory of all that is asked for, as if nothing were finished and no claim confirmed."""
    plans = list(plan_trials(config))
    at_once = runs_at_once(config, plans, machine_cpus(), 0)
    trained = [plan for plan in plans if plan.variant != UNTRAINED]
    seconds = sum(map(_training_seconds, trained)) + _OTHER_STAGES_S * len(plans)
    groups = {plan.group for plan in plans}
    total = seconds / at_once + _CORPUS_S * len(groups)
    steps = sum(plan.config.pretrain.steps for plan in trained)
    counts = Counter(plan.scale for plan in plans)
    lines = [
        ("runs", f"{len(plans)} ({', '.join(f'{scale} {count}' for scale, count in counts.items())})"),
        ("variants", ", ".join(config.chosen())),
        ("seeds", ", ".join(map(str, config.seeds))),
        ("steps", f"{steps:,} in all"),
        ("at once", f"{at_once} on {machine_cpus()} CPUs"),
        ("memory", f"about {megabytes(_RAY_BYTES + at_once * _RUN_BYTES)}"),
        ("time", f"about {duration(total)}"),
    ]
    figures = {"runs": len(plans), "steps": steps, "at_once": at_once, "seconds": total}
    return Plan(stage="ablate", lines=lines, figures=figures)


def _training_seconds(plan: TrialPlan) -> float:
    settings, languages = plan.config.pretrain, plan.config.languages
    shape = architecture_shape(settings.encoder.architecture, plan.config.prepare.tokenizer.vocabulary)
    count = languages.count if languages else 1
    workers = settings.resources.least_workers or 2
    return pretrain_plan(settings, shape, count, workers, gpu=False).figures["seconds"]


def _show(artifact: Artifact, as_json: bool) -> None:
    """The artifact, and for a person a claim a line."""
    if as_json:
        show_artifact(artifact, as_json)
        return
    print(f"{artifact.kind} {artifact.fingerprint[:12]} at {artifact.uri}")
    for text, word in artifact.summary["verdicts"].items():
        print(f"  {word:<13} {text}")
    print(f"  {artifact.summary['report']}")


def _listed(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--seeds: {text!r} is not a whole number") from None


if __name__ == "__main__":
    main(ablate)
