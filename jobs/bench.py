"""ccp-ray bench [PART…]: speed and memory on this machine, side by side with others, beside what was asked for.

stages      each stage of the quickstart's pipeline          jobs.benches.stages
training    a training step against others                   jobs.benches.training
embed       encoder loop, job, workers, memory, restart, …   jobs.benches.embed
index       the job's build against plain FAISS              jobs.benches.index
search      sharded search against one IndexFlatIP           jobs.benches.search
store       requests on disk and on S3 servers               jobs.benches.store
scoring     ranked lists by the official measures            jobs.benches.scoring
submission  from `submit` to the job's first line of log     jobs.benches.submission
evaluation  Tatoeba against encoding alone (needs --data)    jobs.benches.evaluation

Figures are kept as JSON under `bench/`, one file a machine, after every part: what was measured is not lost when a
later part fails. Scratch folders and servers are gone at the end, also after an interruption.
"""

from __future__ import annotations

import contextlib
import enum
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ccp_ray.session import ray_session
from jobs.benches.embed import embed_bench
from jobs.benches.evaluation import evaluation_bench
from jobs.benches.figures import BenchOptions, figure_table, today
from jobs.benches.index import index_bench
from jobs.benches.results import keep
from jobs.benches.scoring import scoring_bench
from jobs.benches.search import search_bench
from jobs.benches.stages import stages_bench, stages_table
from jobs.benches.store import store_bench
from jobs.benches.submission import submission_bench
from jobs.benches.training import ENCODER, training_bench, training_table
from jobs.command import AsJson, ConfigFiles, Overrides, main, native_noise_aside, print_json, reported


class Part(enum.Enum):
    """What can be measured apart."""

    stages = "stages"
    training = "training"
    embed = "embed"
    index = "index"
    search = "search"
    store = "store"
    scoring = "scoring"
    submission = "submission"
    evaluation = "evaluation"


_ROUNDS = {Part.stages: 3}
_USUAL_ROUNDS = 5
_FIGURES: dict[Part, Callable[[BenchOptions], dict[str, Any]]] = {
    Part.index: index_bench,
    Part.search: search_bench,
    Part.store: store_bench,
    Part.scoring: scoring_bench,
    Part.submission: submission_bench,
    Part.evaluation: evaluation_bench,
}


def bench(
    parts: Annotated[
        list[Part] | None, typer.Argument(help="What to measure (default: all that need no --data).")
    ] = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Medians are of so many (3 of stages, else 5).")] = None,
    results: Annotated[str, typer.Option(help="Folder that keeps the results.")] = "bench",
    documents: Annotated[list[str] | None, typer.Option(help="Text (default: generated); repeatable.")] = None,
    section: Annotated[list[str] | None, typer.Option(help="Of embed or evaluation; repeatable.")] = None,
    encoder: Annotated[str, typer.Option(help="Of embed and evaluation.")] = ENCODER,
    texts: Annotated[int | None, typer.Option(min=10, help="Sentences of each section of embed.")] = None,
    pieces: Annotated[int, typer.Option(min=2, help="Pieces of the plan of restart and status.")] = 10_000,
    rows: Annotated[int, typer.Option(min=100, help="Vectors of index and search.")] = 100_000,
    dimensions: Annotated[int, typer.Option(min=8, help="Of those vectors.")] = 384,
    factory: Annotated[list[str] | None, typer.Option(help="FAISS factory string to build; repeatable.")] = None,
    objects: Annotated[int, typer.Option(min=1, help="Small objects of store.")] = 1000,
    data: Annotated[str | None, typer.Option(help="Folder with Tatoeba, for evaluation.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine, part by part, beside others and what was asked for."""
    folder, measured = Path(results), dict[str, Any]()
    chosen = list(dict.fromkeys(parts or (part for part in Part if data or part is not Part.evaluation)))
    with reported(), native_noise_aside(), _left_clean():
        for part in chosen:
            options = BenchOptions(
                encoder=encoder,
                documents=documents or [],
                rounds=rounds or _ROUNDS.get(part, _USUAL_ROUNDS),
                texts=texts,
                pieces=pieces,
                rows=rows,
                dimensions=dimensions,
                objects=objects,
                data=data,
                factories=factory or [],
                sections=section or [],
            )
            found = _measure(part, options, config or [], overrides or [], folder)
            measured |= found
            file = keep(found, folder)
    if as_json:
        print_json({"file": str(file)} | {name: value for name, value in measured.items() if name != "measured"})
        return
    for table in tables(measured):
        print(f"{table}\n")
    print(f"all figures are in {file}")


def _measure(
    part: Part, options: BenchOptions, config: list[str], overrides: list[str], folder: Path
) -> dict[str, Any]:
    """What a part adds to the file: under its name, but for the stages, which were there first."""
    if part is Part.stages:
        return stages_bench(config, overrides, options.rounds)
    if part is Part.training:
        with ray_session():
            return {"training": {"date": today(), **training_bench(options.documents, options.rounds)}}
    if part is Part.embed:
        return {"embed": embed_bench(options, lambda sections: keep({"embed": sections}, folder))}
    return {part.value: _FIGURES[part](options)}


def tables(measured: dict[str, Any]) -> list[str]:
    """What was measured as text, a table a part."""
    out = []
    if "medians" in measured:
        out.append(f"{stages_table(measured['medians'])}\nmedian of {measured['rounds']} runs")
    if "training" in measured:
        out.append(f"{training_table(measured['training'])}\nmedian of {len(measured['training']['rounds'])} rounds")
    out += [figure_table(f"embed, {name}", figures) for name, figures in measured.get("embed", {}).items()]
    return out + [figure_table(part.value, measured[part.value]) for part in _FIGURES if part.value in measured]


@contextlib.contextmanager
def _left_clean() -> Iterator[None]:
    """A bench that is told to end leaves no server and no scratch folder, as after an exception."""

    def leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main(bench)
