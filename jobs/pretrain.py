"""ccp-ray pretrain CORPUS --output URI: corpus in, encoder out (a plain Hugging Face folder)."""

from __future__ import annotations

from ccp_ray import pretrain_job
from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.config import load_config
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.session import machine_cpus
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.memory import EncoderShape
from jobs.plan import Plan, architecture_shape, pretrain_plan, source_shape


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
        run(lambda: pretrain_job.pretrain(corpus, output, settings), output=output, address=address, as_json=as_json)


def plan_pretrain(corpus: str, config: PretrainConfig) -> Plan:
    """The plan of a run on a finished corpus. Raises what the run would of languages, banks and the head.

    The encoder's tokenizer is compared with the corpus's by the run alone: a plan loads neither.
    """
    artifact = open_artifact(corpus, "corpus")
    sentences = pretrain_job.check_corpus(artifact, config)
    shape = trained_shape(artifact, config)
    plan = pretrain_plan(config, shape, len(sentences), *planned_workers(config))
    epochs = ("epochs", pretrain_job.planned_epochs(sentences, config))
    return plan.model_copy(update={"lines": [epochs, *plan.lines]})


def trained_shape(corpus: Artifact, config: PretrainConfig) -> EncoderShape:
    """Of the encoder that is trained on a corpus, from one that is there or from scratch."""
    source = pretrain_job.starting_source(corpus, config)
    vocabulary = corpus.summary["tokenizer"]["vocabulary"]
    return source_shape(source) if source else architecture_shape(config.encoder.architecture, vocabulary)


def planned_workers(config: PretrainConfig) -> tuple[int, bool]:
    """(workers, whether each has a GPU) as configured, else as a run on this machine has them; of bounds the lower."""
    import torch

    workers, gpu = pretrain_job.plan_workers(config, machine_cpus(), torch.cuda.device_count())
    return (workers if isinstance(workers, int) else workers[0]), gpu


if __name__ == "__main__":
    main(pretrain)
