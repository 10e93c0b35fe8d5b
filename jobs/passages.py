"""ccp-ray passages --squad URI --output URI: passage sets in the formats of Mr.TyDi and XOR-Retrieve, of any size."""

from __future__ import annotations

from typing import Annotated

import typer

from ccp_ray.config import load_config
from ccp_ray.session import machine_cpus
from eval.passage_sets import PassagesConfig, check_pivot, make_passages
from eval.squad import read_squad
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.plan import Plan, duration, megabytes

_PASSAGES_PER_S = 400  # generated and packed, on a core; measured in `eval.passage_sets`
_PACKED_BYTES, _PLAIN_BYTES = 250, 650  # of a distractor
_GOLD_BYTES = 500  # of a packed paragraph
_WRITTEN_PER_S = 100e6
_START_S = 10.0  # of Ray's workers
_TASK_BYTES = 300e6

SquadFolder = Annotated[str, typer.Option("--squad", help="Folder with NAME.LANG.json in SQuAD's format (XQuAD).")]


def passages(
    output: Output,
    squad: SquadFolder,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Write passage sets with questions in the formats of Mr.TyDi and XOR-Retrieve, of any size."""
    with reported():
        settings = load_config(PassagesConfig, config or (), overrides or ())
    if plan:
        show_plan(lambda: plan_passages(squad, settings), as_json)
    else:
        run(lambda: make_passages(squad, output, settings), output=output, address=address, as_json=as_json)


def plan_passages(squad: str, config: PassagesConfig) -> Plan:
    """The plan of writing the sets. Reads the SQuAD files, as the run does before all else."""
    content = read_squad(squad)
    check_pivot(squad, content)
    questions = sum(len(own.questions) for own in content.values())
    gold = sum(len(own.paragraphs) for own in content.values())
    packed = len(content) * _PACKED_BYTES * config.distractors + _GOLD_BYTES * gold
    plain = _PLAIN_BYTES * config.distractors
    seconds = _START_S + config.distractors / _PASSAGES_PER_S / machine_cpus() + (packed + plain) / _WRITTEN_PER_S
    lines = [
        ("languages", f"{len(content)}: {', '.join(content)}"),
        ("questions", f"{questions:,}, to {gold:,} paragraphs"),
        ("distractors", f"{config.distractors:,} in each of {len(content)} sets of Mr.TyDi and in XOR-Retrieve's"),
        ("output bytes", f"about {megabytes(packed + plain)}"),
        ("memory", megabytes(_PACKED_BYTES * config.distractors + _TASK_BYTES)),
        ("time", f"about {duration(seconds)} on {machine_cpus()} CPUs"),
    ]
    figures = {"questions": questions, "paragraphs": gold, "bytes": packed + plain, "seconds": seconds}
    return Plan(stage="passages", lines=lines, figures=figures)


if __name__ == "__main__":
    main(passages)
