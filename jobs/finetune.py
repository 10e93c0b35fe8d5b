"""ccp-ray finetune --config YAML --output URI: questions with passages in, a retrieval encoder out."""

from __future__ import annotations

from ccp_ray import finetune_job
from ccp_ray.config import load_config
from ccp_ray.finetune_config import FinetuneConfig
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.finetune_plan import plan_finetune


def finetune(
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder for retrieval on questions and the passages that answer them."""
    with reported():
        settings = load_config(FinetuneConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_finetune(settings), as_json)
    else:
        run(lambda: finetune_job.finetune(output, settings), output=output, address=address, as_json=as_json)


if __name__ == "__main__":
    main(finetune)
