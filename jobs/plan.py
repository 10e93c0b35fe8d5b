"""What a job will need, before anything is spent: counts, bytes, memory, expected time.

Model time is floating-point work (2 operations a parameter and token forward, 6 with backward: Kaplan et al. 2020)
over what this machine's matrix product reaches in a half-second trial, times the share of it that encoders reach
here (measured by `make bench`: about a third). Expect it within a factor of two.
"""

from __future__ import annotations

import time
from typing import Any

from ccp_ray.artifact import Artifact
from ccp_ray.config import StrictModel
from ccp_ray.encoder_config import ArchitectureConfig
from ccp_ray.pretrain_config import PretrainConfig

_MODEL_SHARE = 0.33
_PREPARE_BYTES_PER_S = 1.5e6
_MEAN_TOKENS = 30
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


def pretrain_plan(
    config: PretrainConfig, parameters: int, embedding_parameters: int, languages: int, workers: int
) -> Plan:
    """Of training. Memory: weights, gradients and AdamW's two moments in fp32, sharded as ZeRO's stage says; banks."""
    pairs = config.groups_per_step * config.pairs_per_group
    masked = config.groups_per_step * config.mlm.sentences if config.mlm.weight else 0
    tokens = (2 * pairs + masked) * min(config.max_tokens, _MEAN_TOKENS)
    flops = 6 * (parameters - embedding_parameters) * tokens * config.steps
    seconds = flops / (_MODEL_SHARE * matmul_flops() * workers)
    stage = config.deepspeed.zero_stage
    weight, gradient, moments = ((4 / workers if stage >= level else 4) for level in (3, 2, 1))
    model = parameters * (weight + gradient + 2 * moments)
    banks = config.bank.memory(languages, config.projection, workers)
    lines = [
        ("parameters", f"{parameters:,}"),
        ("workers", str(workers)),
        ("steps", f"{config.steps:,} of {pairs:,} pairs, about {tokens:,} tokens"),
        (
            "memory a worker",
            f"{megabytes(model)} model and optimiser (ZeRO {stage}), {megabytes(banks)} banks, activations besides",
        ),
        ("checkpoints", f"{megabytes(12 * parameters + banks)} each, {config.resources.checkpoint_keep} kept"),
        ("time", f"about {duration(seconds)}"),
    ]
    figures = {"parameters": parameters, "workers": workers, "tokens": tokens * config.steps, "bytes": model + banks}
    return Plan(stage="pretrain", lines=lines, figures=figures | {"seconds": seconds})


def embed_plan(rows: int, pieces: int, dimensions: int, parameters: int, embedding: int, width: int, cpus: int) -> Plan:
    """Of embedding. embedding: parameters of the embeddings, looked up and not computed; width: bytes of a number."""
    body = parameters - embedding
    seconds = 2 * body * rows * _MEAN_TOKENS / (_MODEL_SHARE * matmul_flops() * cpus)
    lines = [
        ("rows", f"{rows:,} in {pieces:,} pieces"),
        ("output bytes", megabytes(rows * (dimensions * width + 100))),
        ("memory a worker", megabytes(4.0 * parameters + min(rows, 65_536) * (4 * dimensions + _ROW_BYTES))),
        ("time", f"about {duration(seconds)} on {cpus} CPUs"),
    ]
    return Plan(stage="embed", lines=lines, figures={"rows": rows, "pieces": pieces, "seconds": seconds})


def index_plan(embeddings: Artifact, shard_rows: int, width: int) -> Plan:
    """Of indexing. width: bytes of a number in the index."""
    rows, dimensions = int(embeddings.summary["rows"]), int(embeddings.summary["dimensions"])
    shard = min(rows, shard_rows) * dimensions
    lines = [
        ("rows", f"{rows:,} x {dimensions}"),
        ("shards", f"{-(-rows // shard_rows):,}"),
        ("output bytes", megabytes(rows * dimensions * width)),
        ("memory a task", megabytes(shard * (8 + 2 * width))),
        ("time", f"about {duration(rows / _INDEX_ROWS_PER_S)} a CPU"),
    ]
    return Plan(stage="index", lines=lines, figures={"rows": rows, "bytes": rows * dimensions * width})


def architecture_parameters(shape: ArchitectureConfig, vocabulary: int) -> tuple[int, int]:
    """(all, embedding) parameters of an XLM-R-shaped encoder."""
    hidden = shape.hidden
    layer = 4 * hidden * (hidden + 1) + 2 * hidden * shape.intermediate + shape.intermediate + 5 * hidden
    embedding = (vocabulary + shape.positions + 3) * hidden
    return embedding + shape.layers * layer, embedding


def model_parameters(settings: dict[str, Any]) -> tuple[int, int]:
    """(all, embedding) parameters from a Hugging Face config.json."""
    shape = ArchitectureConfig(
        layers=settings["num_hidden_layers"],
        hidden=settings["hidden_size"],
        heads=settings["num_attention_heads"],
        intermediate=settings["intermediate_size"],
        positions=settings["max_position_embeddings"],
    )
    return architecture_parameters(shape, int(settings["vocab_size"]))


def matmul_flops() -> float:
    """Floating-point operations a second of one core's (or the GPU's) matrix product, by a short trial."""
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


def megabytes(count: float) -> str:
    """1.2 GB, 340 MB, 12 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """3.2 days, 4.5 hours, 12 minutes, 40 seconds."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
