"""All runs of an ablation, side by side on one Ray.

Corpora come first, one a seed. Then each trial is a Ray task that starts its own training and evaluation, as many at
once as the cluster has CPUs for: a small encoder gains less from a second worker than from a second run beside it. A
trial that fails leaves the others alone; what failed is told at the end. Finished trials are skipped, so an ablation
that was stopped, or is asked for more seeds, variants or scales, makes only what is missing.

All variants run at the first scale. At each further one run only those of the claims that are not confirmed by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ccp_ray.artifact import Artifact, Output, open_artifact
from ccp_ray.errors import CcpError
from ccp_ray.pretrain_job import plan_workers
from ccp_ray.progress import Meter, say
from ccp_ray.session import ray_session, ray_session_at_need
from ccp_ray.storage import absolute_uri, storage_full
from eval.ablation import Trial, unconfirmed_claims
from jobs.ablation_config import AblationConfig, TrialPlan, plan_scale, plan_trials
from jobs.ablation_report import write_ablation
from jobs.ablation_trial import open_trial, read_trial, run_trial
from jobs.pipeline import Stages, run_corpus


def ablate(config: AblationConfig, output: str) -> Artifact:
    """Run every trial that is not finished and write the report. Returns its artifact (kind "ablation").

    Raises UsageError before anything is written where a variant's change does not fit, DriftError before anything is
    trained at a scale where the output holds trials of another configuration, CcpError naming every trial that failed.
    """
    output = absolute_uri(output)
    for _ in plan_trials(config):  # a change that does not fit is told before anything is written
        pass
    artifacts, trials = dict[str, Artifact](), list[Trial]()
    with ray_session_at_need():
        for number, scale in enumerate(config.chosen_scales):
            claims = unconfirmed_claims(config.judged(), trials, config.chosen_scales[:number])
            if number and not claims:
                break
            variants = config.needed(claims) if number else config.chosen()
            artifacts |= _run_scale(list(plan_scale(config, scale, variants)), output, config)
            trials = [read_trial(artifact) for artifact in artifacts.values()]
    return write_ablation(config, artifacts, trials, output)


def _run_scale(plans: Sequence[TrialPlan], output: str, config: AblationConfig) -> dict[str, Artifact]:
    """The finished trials by name, after those that were missing ran."""
    for plan in {plan.group: plan for plan in plans}.values():
        run_corpus(plan.config, Stages(f"{output}/{plan.group}"))
    todo = [plan for plan in plans if isinstance(open_trial(plan, output), Output)]
    if todo:
        with ray_session():
            _run_all(todo, output, config)
    return {plan.name: open_artifact(f"{output}/{plan.name}/trial", "trial") for plan in plans}


def runs_at_once(config: AblationConfig, plans: Sequence[TrialPlan], cpus: int, gpus: int) -> int:
    """Trials that run side by side: as many as the largest of them fits into the cluster, at least one."""
    if config.resources.at_once is not None:
        return config.resources.at_once
    rooms = []
    for plan in plans:
        workers, use_gpu = plan_workers(plan.config.pretrain, cpus, gpus)
        workers = workers[1] if isinstance(workers, tuple) else workers
        each = plan.config.pretrain.resources.cpus_per_worker
        rooms.append(gpus // workers if use_gpu else cpus // (workers * each))
    return max(1, min(rooms))


def _run_all(todo: Sequence[TrialPlan], output: str, config: AblationConfig) -> None:
    """Raises CcpError naming the trials that failed, when all others have ended."""
    import ray

    resources = ray.cluster_resources()
    at_once = runs_at_once(config, todo, int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    task = ray.remote(num_cpus=0, max_retries=1)(_trial_task)  # what it starts asks for CPUs of its own
    waiting, running, failures = list(todo), dict[Any, TrialPlan](), list[str]()
    say(f"ablate: {len(todo)} runs, {at_once} at once")
    with Meter("ablate", len(todo), "runs") as meter:
        while waiting or running:
            while waiting and len(running) < at_once:
                plan = waiting.pop(0)
                running[task.options(name=f"trial {plan.name}").remote(plan, output)] = plan
            ended, _ = ray.wait(list(running), num_returns=1)
            plan = running.pop(ended[0])
            failure, note = _outcome(ended[0])
            if failure:
                failures.append(f"{plan.name}: {failure}")
                say(f"ablate: {failures[-1]}")
            meter.update(note=f"{plan.name}{note}")
    if failures:
        raise CcpError(
            f"{len(failures)} of {len(todo)} runs failed ({'; '.join(failures)}); run again to continue: "
            "the others are kept"
        )


def _outcome(reference: Any) -> tuple[str, str]:
    """(what went wrong or nothing, a word on the result) of an ended task."""
    import ray

    try:
        failure, note = ray.get(reference)
        return str(failure), str(note)
    except ray.exceptions.RayError as error:  # the task's process died, or a bug: told with its traceback
        say(str(error))
        return str(error).strip().splitlines()[-1], ""


def _trial_task(plan: TrialPlan, output: str) -> tuple[str, str]:
    """One trial in a Ray worker; an error that a person can act on comes back as text."""
    try:
        summary = run_trial(plan, output).summary
    except CcpError as error:
        return str(error), ""
    except OSError as error:
        full = storage_full(error)
        if full is None:
            raise
        return str(full), ""
    return "", ": died" if summary["died"] else f": {100 * summary['accuracy.raw']:.1f} % raw"
