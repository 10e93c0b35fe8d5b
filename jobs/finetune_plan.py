"""What a fine-tuning will need: questions, memory, files, time.

A step encodes each question and passage of its batch once forward and once backward (6 operations a parameter and
token), and once more without a graph where a worker has more than one group (8). Padding is left out, as the passes
are sorted by length. Measuring encodes all dev questions and passages, every `dev.every` steps and twice besides.

Activations are those of one group, its texts as long as may be: what `jobs.memory` has for a layer. Beside them every
worker holds the vectors of the whole batch with their gradients, and while it measures those of all dev passages.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.pair_batches import check_batch
from ccp_ray.session import machine_cpus
from ccp_ray.training_job import plan_workers
from jobs.memory import EncoderShape, engine_bytes, layer_bytes
from jobs.plan import MODEL_SHARE, Plan, duration, matmul_flops, megabytes, source_shape
from jobs.question_counts import QuestionCounts, count_questions


class FinetuneMemory(NamedTuple):
    """Bytes on a GPU (a worker's memory where there is none), and of the optimiser on the host."""

    model: float
    optimizer: float
    activations: float
    vectors: float
    offloaded: float

    @property
    def total(self) -> float:
        """On the GPU."""
        return self.model + self.optimizer + self.activations + self.vectors


def plan_finetune(config: FinetuneConfig) -> Plan:
    """The plan of a run on this machine. Raises UsageError and DataError as the run would of sources and encoders."""
    import torch

    shapes = {role: source_shape(start.source) for role, start in config.starts().items()}
    widths = {shape.hidden for shape in shapes.values()}
    if len(widths) > 1:
        raise UsageError(f"encoder and passage_encoder have vectors of different widths ({widths}); choose two alike")
    workers, gpu = plan_workers(config, machine_cpus(), torch.cuda.device_count())
    train = count_questions(config.train, config.negative_pool)
    if train.exact:
        check_batch(config, train.questions)
    dev = count_questions(config.dev_data, config.negative_pool) if config.dev_data else None
    return finetune_plan(config, shapes, train, dev, workers if isinstance(workers, int) else workers[0], gpu)


def finetune_plan(
    config: FinetuneConfig,
    shapes: dict[str, EncoderShape],
    train: QuestionCounts,
    dev: QuestionCounts | None,
    workers: int,
    gpu: bool,
) -> Plan:
    """shapes: of the encoder, or of the two by role. workers: each with a GPU, or none has."""
    steps = config.planned_steps(train.questions)
    tokens = _step_tokens(config, train)
    memory = finetune_memory(config, list(shapes.values()), dev, workers, gpu)
    seconds = _operations(config, shapes, train, dev, workers) / (MODEL_SHARE * matmul_flops() * workers)
    parameters = sum(shape.parameters for shape in shapes.values())
    encoders = "" if config.tied else ", two encoders"
    passages = config.batch * (1 + config.hard_negatives)
    lines = [("train", _told(train)), *([("dev", _told(dev))] if dev else [])]
    lines += [
        ("parameters", f"{parameters:,}{encoders}"),
        ("workers", f"{workers}, ZeRO {config.deepspeed.zero_stage}, {config.deepspeed.precision}"),
        ("steps", f"{steps:,} of {config.batch:,} questions and {passages:,} passages, about {tokens:,.0f} tokens"),
        (f"memory a {'GPU' if gpu else 'worker'}", f"about {megabytes(memory.total)}"),
        ("- model", f"{megabytes(memory.model)} weights and gradients"),
        ("- optimiser", _optimizer(memory)),
        ("- activations", f"{megabytes(memory.activations)} of one group, at most"),
        ("- vectors", f"{megabytes(memory.vectors)} of the batch, or of the dev passages"),
        ("working files", f"{megabytes(_data_bytes(config, train, dev))} of token ids"),
        ("checkpoints", f"{megabytes(12 * parameters)} each, {config.resources.checkpoint_keep} kept"),
        ("output bytes", megabytes(4 * parameters)),
        ("time", f"about {duration(seconds)}"),
    ]
    figures: dict[str, float] = {
        "questions": train.questions,
        "dev_questions": dev.questions if dev else 0,
        "steps": steps,
    }
    figures |= {"parameters": parameters, "workers": workers, "tokens": tokens * steps, "seconds": seconds}
    return Plan(stage="finetune", lines=lines, figures=figures | {"bytes": memory.total} | memory._asdict())


def finetune_memory(
    config: FinetuneConfig, shapes: list[EncoderShape], dev: QuestionCounts | None, workers: int, gpu: bool
) -> FinetuneMemory:
    """shapes: of one encoder, or of those of questions and of passages."""
    model, optimizer, offloaded = engine_bytes(config, sum(shape.parameters for shape in shapes), workers)
    questions, passages = config.questions_per_group, config.questions_per_group * (1 + config.hard_negatives)
    activations = 0.0
    for shape, count, length, chunks in (
        (shapes[0], questions, config.question_tokens, 1),
        (shapes[-1], passages, config.passage_tokens, config.chunks),
    ):
        activations += layer_bytes(config, shape, count * length, count * length / chunks, length, gpu)
    batch = config.batch * (2 + config.hard_negatives)
    ranked = dev.questions + dev.passages if dev else 0
    vectors = 4.0 * shapes[0].hidden * max(2 * batch, ranked)
    return FinetuneMemory(model, optimizer, activations, vectors, offloaded)


def _step_tokens(config: FinetuneConfig, train: QuestionCounts) -> float:
    asked = config.batch * train.question_tokens(config.question_tokens)
    return asked + config.batch * (1 + config.hard_negatives) * train.passage_tokens(config.passage_tokens)


def _operations(
    config: FinetuneConfig,
    shapes: dict[str, EncoderShape],
    train: QuestionCounts,
    dev: QuestionCounts | None,
    workers: int,
) -> float:
    asks, reads = (_body(shapes.get(side, next(iter(shapes.values())))) for side in ("question", "passage"))
    steps = config.planned_steps(train.questions)
    passes = 6 if config.groups_per_step == workers else 8
    asked = config.batch * train.question_tokens(config.question_tokens)
    found = passes * steps * (asks * asked + reads * (_step_tokens(config, train) - asked))
    if dev is not None:
        share = min(1.0, (config.dev.limit or dev.questions) / dev.questions)
        asked = dev.questions * dev.question_tokens(config.question_tokens)
        read = dev.passages * dev.passage_tokens(config.passage_tokens)
        found += 2 * share * (steps / config.dev.every + 2) * (asks * asked + reads * read)
    return found


def _body(shape: EncoderShape) -> int:
    return shape.parameters - shape.embedding_parameters


def _data_bytes(config: FinetuneConfig, *splits: QuestionCounts | None) -> float:
    """Of token ids and lists: at most four bytes a token."""
    return sum(
        4 * one.questions * one.question_tokens(config.question_tokens)
        + 4 * one.passages * one.passage_tokens(config.passage_tokens)
        + 8 * (6 * one.questions + 2 * one.passages)
        for one in splits
        if one is not None
    )


def _told(questions: QuestionCounts) -> str:
    about = "" if questions.exact else "about "
    return f"{questions.told}, {about}{questions.passages:,} passages"


def _optimizer(memory: FinetuneMemory) -> str:
    here = megabytes(memory.optimizer)
    return f"{here}, {megabytes(memory.offloaded)} on the host" if memory.offloaded else here
