"""ccp-ray generate --output URI: documents and translated test sentences of a family of generated languages."""

from __future__ import annotations

from ccp_ray.config import load_config
from ccp_ray.generate import generate as generate_documents
from ccp_ray.languages import LanguagesConfig
from ccp_ray.session import machine_cpus
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import Plan, duration, megabytes

_SENTENCE_BYTES = 65
_SENTENCES_PER_S = 4000


def generate(
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Write documents of generated languages, for trials and load tests of any size."""
    with reported():
        settings = load_config(LanguagesConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_generate(settings), as_json)
    else:
        run(lambda: generate_documents(output, settings), output=output, address=address, as_json=as_json)


def plan_generate(config: LanguagesConfig) -> Plan:
    """The plan of writing these documents."""
    documents = config.count * (config.documents + config.dev_documents)
    size = documents * config.sentences * _SENTENCE_BYTES
    lines = [("documents", f"{documents:,} in {config.count} languages"), ("text", f"about {megabytes(size)}")]
    seconds = documents * config.sentences / _SENTENCES_PER_S / machine_cpus()
    lines += [("memory", "under 300 MB a task"), ("time", f"about {duration(seconds)} on {machine_cpus()} CPUs")]
    figures = {"documents": documents, "bytes": size, "seconds": seconds}
    return Plan(stage="generate", lines=lines, figures=figures)


if __name__ == "__main__":
    main(generate)
