"""Sharded FAISS index from an embeddings artifact, built as Ray tasks and committed shard by shard.

    choose a factory ──► sample rows ──► train the quantiser ──► build shards ──► measure recall ──► merge
    (index_factory)     (index_sample)  (quantiser)             (index_shards)   (index_recall)    (index_merge)

An exact index is built shards only. Vectors are calibrated (if asked) and put to unit length when they are read, so
inner product is cosine. Every stage is a plan of pieces with a ledger: a run that is killed continues where it stopped.
Exact search: a million rows of 384 dimensions are 1.5 GB in fp32 (half in fp16) and answer a query in about
0.1 s on one core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ccp_ray.artifact import (
    Artifact,
    InputRef,
    Output,
    Request,
    digest_json,
    find_artifact,
    open_artifact,
    open_output,
)
from ccp_ray.calibration import unit as unit  # what search does to queries is what is done to rows
from ccp_ray.config import semantic
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import CcpError, DataError
from ccp_ray.index_config import IndexConfig as IndexConfig
from ccp_ray.index_factory import Choice, Size, choose, train_rows
from ccp_ray.index_gpu import GpuUse, check_gpu, gpu_of_task, tell_cpu
from ccp_ray.index_input import check_calibration, open_embeddings
from ccp_ray.index_merge import check_merge_fits, merge_shards
from ccp_ray.index_recall import Recall, measure
from ccp_ray.index_rows import RowSource
from ccp_ray.index_sample import Draw, Sample, draw, held_out, sample
from ccp_ray.index_shards import Making, Shard, build_shards, plan_index, plan_shards
from ccp_ray.ledger import Entry, FileRecord
from ccp_ray.progress import say
from ccp_ray.quantiser import Quantiser, earlier_quantiser, quantiser
from ccp_ray.session import largest_node, ray_session


class Task(NamedTuple):
    """An index to build: what of, how, and what earlier indexes may lend."""

    embeddings: Embeddings
    inputs: list[InputRef]
    config: IndexConfig
    choice: Choice
    size: Size
    earlier: list[Artifact]

    @property
    def calibration(self) -> InputRef | None:
        return next((ref for ref in self.inputs if ref.role == "calibration"), None)

    @property
    def source(self) -> RowSource:
        calibration = self.calibration
        uri = calibration.uri if calibration else None  # absolute: tasks run in other folders
        return RowSource(self.embeddings.artifact.uri, uri, self.config.metric)

    def groups(self) -> list[list[int]]:
        """Pieces of each shard where no earlier index has one."""
        return plan_shards([piece.rows for piece in self.embeddings.pieces], self.config.shard_rows)

    def making(self, trained: Quantiser | None) -> Making:
        fitted = self.calibration.fingerprint if self.calibration else None
        return Making(self.choice.factory, self.config.metric, fitted, trained)

    def quantiser_key(self) -> str:
        """Of what a quantiser is made for. Not of the rows: that is what lets an index grow."""
        encoder = self.embeddings.artifact.input("encoder").fingerprint
        train = {"rows": self.config.train_rows, "seed": self.config.seed}
        made_for = self.making(None)._asdict() | {"encoder": encoder, "dimensions": self.size.dimensions}
        return digest_json(made_for | {"train": train})[:32]


class Built(NamedTuple):
    """What the stages left: shards in order, their entries, and what an approximate index has beside them."""

    shards: list[Shard]
    entries: dict[str, Entry]
    quantiser: Quantiser | None
    recall: Recall | None


def index(
    embeddings: str,
    output: str,
    config: IndexConfig | None = None,
    calibration: str | None = None,
    reuse: Sequence[str] = (),
) -> Artifact:
    """Build the index. Returns the finished artifact (kind "index").

    `reuse`: earlier indexes whose quantiser and whose shards are taken where they are what would be made now.
    Raises UsageError for an unfinished input and for a configuration that cannot be met, before anything is written;
    DataError where calibration and embeddings do not fit or a piece cannot be used.
    """
    started = time.monotonic()
    task = plan_task(embeddings, config or IndexConfig(), calibration, reuse)
    request = Request(kind="index", config=semantic(task.config), inputs=task.inputs)
    target = open_output(output, request)
    if isinstance(target, Artifact):
        return target
    say(f"index: {task.choice.factory}, {task.choice.reason}")
    with target.unless_refused(), ray_session():
        made = _make(target, task)
    if isinstance(made, Artifact):
        return made
    built, merged = made
    held = sum(merged.entries[shard.name].rows for shard in merged.shards)
    if held != task.size.rows:
        raise DataError(f"{output}: the shards hold {held:,} rows of {task.size.rows:,}; two pieces share a name")
    kept = sum(shard.earlier is not None for shard in built.shards)
    measured = {"seconds": time.monotonic() - started, "shards_built": len(built.shards) - kept, "shards_kept": kept}
    artifact = target.finish(_files(merged), _summary(task, merged), measured)
    for key in {record.path for record in _files(built)} - {record.path for record in artifact.files}:
        target.store.delete(key)  # merged, and the manifest that does not need them stands
    return artifact


def plan_task(embeddings: str, config: IndexConfig, calibration: str | None = None, reuse: Sequence[str] = ()) -> Task:
    """Everything that is decided before anything is written. Raises as `index`."""
    source = open_embeddings(embeddings)
    inputs = [source.ref("embeddings")]
    reader = Embeddings.open(embeddings)
    if not reader.rows:
        raise DataError(f"{embeddings}: holds no rows; embed some texts first")
    if calibration is not None:
        inputs.append(open_artifact(calibration, "calibration").ref("calibration"))
        check_calibration(reader, inputs[-1].uri)
    earlier = [open_artifact(uri, "index") for uri in reuse]
    rows = [piece.rows for piece in reader.pieces]
    trainable = sum(count - held_out(count) for count in rows)
    shards = 1 if config.merge else len(plan_shards(rows, config.shard_rows))
    size = Size(reader.rows, reader.dimensions, shards, trainable)
    choice = choose(size, config, [artifact.summary.get("factory", "") for artifact in earlier])
    check_gpu(config.resources.gpu, choice.anatomy)
    return Task(reader, inputs, config, choice, size, earlier)


def _make(target: Output, task: Task) -> tuple[Built, Built] | Artifact:
    """What is built, and what that is once merged; the artifact, where another run of this output has finished it.

    That run deletes the shards that it has merged, and this one may be about to read them.
    """
    try:
        built = _build(target, task)
        return built, _merge(target, task, built) if task.config.merge and len(built.shards) > 1 else built
    except CcpError:
        finished = find_artifact(target.uri)
        if finished is None:
            raise
        say("index: another run of this output has finished it meanwhile")
        return finished


def _build(target: Output, task: Task) -> Built:
    config, resources = task.config, task.config.resources
    gpu = gpu_of_task(resources.gpu, task.choice.anatomy)
    if config.merge:
        check_merge_fits(task.choice.bytes, len(task.groups()))
    drawn, trained = Draw(config.seed, trains=False), None
    samples: list[Sample] = []
    if not task.choice.exact:
        drawn, samples = _sample(target, task)
    if not task.choice.anatomy.trained:
        trained, entry = _train(target, task, samples, gpu)
        if gpu == "if it can" and tell_cpu([entry]):
            gpu = "no"  # nor would a shard's task find a use for one
    making = task.making(trained)
    shards = plan_index(task.embeddings, making, config.shard_rows, task.earlier)
    for artifact in task.earlier:
        kept = sum(shard.earlier is not None and shard.earlier.uri == artifact.uri for shard in shards)
        say(f"index: {kept} of the {len(artifact.summary['shards'])} shards of {artifact.uri} are kept")
    dimensions, cpus = task.size.dimensions, resources.cpus_per_task
    entries = build_shards(target, task.source, making, shards, dimensions, cpus=cpus, gpu=gpu)
    if gpu == "if it can":
        tell_cpu(entries.values())
    recall = _measure(target, task, Built(shards, entries, trained, None), drawn, samples) if samples else None
    return Built(shards, entries, trained, recall)


def _sample(target: Output, task: Task) -> tuple[Draw, list[Sample]]:
    config = task.config
    train = train_rows(task.choice, task.size, config)
    drawn = draw(task.embeddings.pieces, config.seed, train, config.recall_queries)
    if earlier_quantiser(task.quantiser_key(), task.earlier):
        drawn = drawn._replace(train=-1.0)  # held-out rows stay held out, and no others are read
    return drawn, sample(target, task.source, task.groups(), drawn, config.resources.cpus_per_task)


def _train(target: Output, task: Task, samples: list[Sample], gpu: GpuUse) -> tuple[Quantiser, Entry]:
    cpus = task.config.resources.train_cpus or largest_node("CPU")
    key, factory, dimensions = task.quantiser_key(), task.choice.factory, task.size.dimensions
    found = earlier_quantiser(key, task.earlier)
    if found:
        say(f"index: the quantiser of {found[0].uri} is used again")
    return quantiser(target, key, factory, dimensions, samples, task.earlier, cpus=cpus, gpu=gpu)


def _measure(target: Output, task: Task, built: Built, drawn: Draw, samples: list[Sample]) -> Recall:
    config = task.config
    recall = measure(
        target,
        task.source,
        built.shards,
        built.entries,
        drawn,
        samples,
        ladder=task.choice.anatomy.ladder,
        own=config.search_parameters,
        k=config.recall_k,
        aim=config.recall,
        cpus=config.resources.cpus_per_task,
    )
    say(f"index: {recall.sentence}")
    return recall


def _merge(target: Output, task: Task, built: Built) -> Built:
    making, cpus = task.making(built.quantiser), task.config.resources.cpus_per_task
    shard, entry = merge_shards(target, task.embeddings, making, built.shards, built.entries, cpus=cpus)
    return built._replace(shards=[shard], entries={shard.name: entry})


def _files(built: Built) -> list[FileRecord]:
    files = [record for shard in built.shards for record in built.entries[shard.name].files]
    return files + ([built.quantiser.record] if built.quantiser else [])


def _summary(task: Task, built: Built) -> dict[str, Any]:
    source, names = task.embeddings.artifact, [piece.name for piece in task.embeddings.pieces]
    entries = [(shard, built.entries[shard.name]) for shard in built.shards]
    reason = "; ".join([task.choice.reason, *([built.recall.sentence] if built.recall else [])])
    return {
        "rows": sum(entry.rows for _, entry in entries),
        "dimensions": task.size.dimensions,
        "shards": [
            {"name": shard.name, "rows": entry.rows, "vectors": entry.files[0].path, "table": entry.files[1].path}
            | {"pieces": [names[number] for number in shard.pieces]}
            for shard, entry in entries
        ],
        "encoder": source.input("encoder").model_dump(),
        "encoding": {name: source.config.get(name) for name in ("pooling", "max_tokens", "prompt")},
        "calibrated": task.calibration is not None,
        "metric": task.config.metric,
        "factory": task.choice.factory,
        "exact": task.choice.exact,
        "reason": reason,
        "search_parameters": built.recall.chosen if built.recall else "",
        "recall": built.recall.summary() if built.recall else None,
        "quantiser": built.quantiser.summary() if built.quantiser else None,
    }
