"""ccp-ray pretrain CORPUS --output URI: corpus in, encoder out (a plain Hugging Face folder)."""

from __future__ import annotations

import json
from pathlib import Path

from ccp_ray import pretrain_job
from ccp_ray.artifact import open_artifact
from ccp_ray.config import load_config
from ccp_ray.model_source import local_model
from ccp_ray.pretrain_config import PretrainConfig
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import Plan, architecture_parameters, model_parameters, pretrain_plan


def pretrain(
    corpus: str,
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Train an encoder on a corpus by contrastive context prediction."""
    with reported():
        settings = load_config(PretrainConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_pretrain(corpus, settings), as_json)
    else:
        run(lambda: pretrain_job.pretrain(corpus, output, settings), address=address, as_json=as_json)


def plan_pretrain(corpus: str, config: PretrainConfig) -> Plan:
    """The plan of a run on a finished corpus."""
    artifact = open_artifact(corpus, "corpus")
    facts = artifact.summary
    source = pretrain_job.starting_source(artifact, config)
    if source:
        parameters, embedding = source_parameters(source)
    else:
        parameters, embedding = architecture_parameters(config.encoder.architecture, facts["tokenizer"]["vocabulary"])
    languages = len(config.languages or facts["languages"])
    return pretrain_plan(config, parameters, embedding, languages, config.resources.least_workers or 2)


def source_parameters(source: str) -> tuple[int, int]:
    """(all, embedding) parameters of a model source."""
    return model_parameters(json.loads(Path(local_model(source), "config.json").read_text()))


if __name__ == "__main__":
    main(pretrain)
