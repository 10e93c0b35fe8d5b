"""What a job will need, before anything is spent: counts, bytes, memory, expected time.

Model time is floating-point work (2 operations a parameter and token forward, 6 with backward: Kaplan et al. 2020)
over what this machine's matrix product reaches in a half-second trial, times the share of it that encoders reach
here (measured by `make bench`: about a third). Expect it within a factor of two.
"""

from __future__ import annotations

import functools
import time

from ccp_ray.config import StrictModel
from ccp_ray.encoder_config import ArchitectureConfig
from ccp_ray.errors import UsageError
from ccp_ray.index import Task as IndexTask
from ccp_ray.model_source import model_settings
from ccp_ray.pretrain_config import PretrainConfig, check_head
from ccp_ray.sizes import megabytes as megabytes
from jobs.memory import EncoderShape, trained_parameters, training_memory

MODEL_SHARE = 0.33  # of the matrix product's speed
MEAN_TOKENS = 30  # of a sentence
_PREPARE_BYTES_PER_S = 1.5e6
_INDEX_ROWS_PER_S = 30_000  # of 384 dimensions, one task, exact
_ROW_BYTES = 400  # of a row on its way through a task: text, tokens, vector's share


class Plan(StrictModel):
    """Lines for a person, figures for a program."""

    stage: str
    lines: list[tuple[str, str]]
    figures: dict[str, float]


def prepare_plan(files: int, size: int, cpus: int) -> Plan:
    """Of reading and splitting documents. size: bytes as stored."""
    seconds = 2 * size / _PREPARE_BYTES_PER_S / cpus
    lines = [
        ("input files", f"{files:,}"),
        ("input bytes", megabytes(size)),
        ("output bytes", f"about {megabytes(2 * size)}"),
    ]
    lines += [
        ("memory", "under 1 GB a task, whatever the corpus"),
        ("time", f"about {duration(seconds)} on {cpus} CPUs"),
    ]
    return Plan(stage="prepare", lines=lines, figures={"files": files, "bytes": size, "seconds": seconds})


def pretrain_plan(config: PretrainConfig, shape: EncoderShape, languages: int, workers: int, gpu: bool) -> Plan:
    """Of training. Memory is that of one GPU, or of one worker where there is none (`jobs.memory`).

    Raises UsageError for a head that does not fit the encoder.
    """
    check_head(config, shape.hidden)
    pairs = config.groups_per_step * config.pairs_per_group
    masked = config.groups_per_step * config.mlm.sentences if config.mlm.weight else 0
    tokens = (2 * pairs + masked) * min(config.max_tokens, MEAN_TOKENS)
    flops = 6 * (shape.parameters - shape.embedding_parameters) * tokens * config.steps
    seconds = flops / (MODEL_SHARE * matmul_flops() * workers)
    memory = training_memory(config, shape, workers, languages, gpu)
    each = "GPU" if gpu else "worker"
    how = f"ZeRO {config.deepspeed.zero_stage}, {config.deepspeed.precision}"
    optimizer = megabytes(memory.optimizer)
    if config.deepspeed.offload_optimizer:
        optimizer += f", {megabytes(memory.offloaded)} on the host"
    checkpoint = 12 * trained_parameters(config, shape) + config.bank.memory(languages, config.projection, 1)
    lines = [
        ("parameters", f"{shape.parameters:,}"),
        ("workers", f"{workers}, {how}"),
        ("steps", f"{config.steps:,} of {pairs:,} pairs, about {tokens:,} tokens"),
        (f"memory a {each}", f"about {megabytes(memory.total)}"),
        ("- model", f"{megabytes(memory.model)} weights and gradients"),
        ("- optimiser", optimizer),
        ("- activations", f"{megabytes(memory.activations)} of one group, at most"),
        ("- banks", f"{megabytes(memory.banks)} ({config.bank.placement})"),
        ("checkpoints", f"{megabytes(checkpoint)} each, {config.resources.checkpoint_keep} kept"),
        ("time", f"about {duration(seconds)}"),
    ]
    figures = {"parameters": shape.parameters, "workers": workers, "tokens": tokens * config.steps, "seconds": seconds}
    return Plan(stage="pretrain", lines=lines, figures=figures | {"bytes": memory.total} | memory._asdict())


def embed_plan(
    rows: int, pieces: int, shape: EncoderShape, width: int, cpus: int, tokens: float = MEAN_TOKENS, told: str = ""
) -> Plan:
    """Of embedding. width: bytes of a number. tokens: of a row, on average. told: the rows, if estimated."""
    parameters, dimensions = shape.parameters, shape.hidden
    body = parameters - shape.embedding_parameters
    seconds = 2 * body * rows * tokens / (MODEL_SHARE * matmul_flops() * cpus)
    lines = [
        ("rows", f"{told or f'{rows:,}'} in {pieces:,} pieces"),
        ("output bytes", megabytes(rows * (dimensions * width + 100))),
        ("memory a worker", megabytes(4.0 * parameters + min(rows, 65_536) * (4 * dimensions + _ROW_BYTES))),
        ("time", f"about {duration(seconds)} on {cpus} CPUs"),
    ]
    return Plan(
        stage="embed",
        lines=lines,
        figures={"rows": rows, "pieces": pieces, "tokens": rows * tokens, "seconds": seconds},
    )


def index_plan(task: IndexTask) -> Plan:
    """Of indexing, with the factory that was chosen and why."""
    size, facts = task.size, task.choice.anatomy
    shards = task.groups()
    largest = max(sum(task.embeddings.pieces[number].rows for number in group) for group in shards)
    piece = max(piece.rows for piece in task.embeddings.pieces)
    lines = [
        ("rows", f"{size.rows:,} x {size.dimensions}"),
        ("factory", task.choice.factory),
        ("reason", task.choice.reason),
        ("shards", f"{len(shards):,}" + (", merged to one" if task.config.merge else "")),
        ("output bytes", megabytes(task.choice.bytes)),
        ("memory a task", megabytes(2 * facts.bytes(largest, 1) + 12 * piece * size.dimensions)),
        (
            "time",
            f"about {duration(size.rows / _INDEX_ROWS_PER_S)} a CPU, and training"
            if not facts.trained
            else f"about {duration(size.rows / _INDEX_ROWS_PER_S)} a CPU",
        ),
    ]
    return Plan(stage="index", lines=lines, figures={"rows": size.rows, "bytes": task.choice.bytes})


def architecture_shape(shape: ArchitectureConfig, vocabulary: int) -> EncoderShape:
    """Of an encoder from scratch."""
    return EncoderShape(shape.layers, shape.hidden, shape.intermediate, shape.heads, vocabulary, shape.positions)


def source_shape(source: str) -> EncoderShape:
    """Of a model source, from its config.json alone. Raises UsageError for one that does not say its sizes."""
    settings = model_settings(source)
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    sizes = [settings.get(name) for name in (*names, "max_position_embeddings")]
    if not all(isinstance(size, int) for size in sizes):
        raise UsageError(f"{source}: --plan cannot tell its size: config.json lacks one of {', '.join(names)}")
    return EncoderShape(*map(int, sizes))  # type: ignore[arg-type]


@functools.cache
def matmul_flops() -> float:
    """Floating-point operations a second of one core's (or the GPU's) matrix product, by a short trial, made once."""
    import torch

    gpu = torch.cuda.is_available()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        size = 8192 if gpu else 1024
        left = torch.rand(size, size, device="cuda" if gpu else "cpu", dtype=torch.bfloat16 if gpu else torch.float32)
        left @ left  # the first call sets things up
        started, rounds = time.monotonic(), 0
        while time.monotonic() - started < 0.5:
            product = left @ left
            rounds += 1
            if gpu:
                product[0, 0].item()  # waits for the device
        return 2 * size**3 * rounds / (time.monotonic() - started)
    finally:
        torch.set_num_threads(before)


def duration(seconds: float) -> str:
    """3.2 days, 4.5 hours, 12 minutes, 40 seconds."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
