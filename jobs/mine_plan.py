"""What mining will need: questions to encode and search for, and where there is no index yet, passages to embed.

Search is counted as exact: 2 operations a number, question and passage, as `evaluate --plan` has it. An approximate
index takes less.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.artifact import open_artifact
from ccp_ray.index_factory import Size, choose
from ccp_ray.mine import MineConfig
from ccp_ray.session import machine_cpus
from jobs.embed import plan_embed
from jobs.evaluate_plan import SEARCH_SHARE
from jobs.memory import EncoderShape
from jobs.plan import MODEL_SHARE, Plan, duration, matmul_flops, megabytes, source_shape
from jobs.question_counts import QuestionCounts, count_questions

_QUESTION_BYTES = 2_000  # with positives and answers
_HIT_BYTES, _BLOCK = 1_000, 1024  # a text, its id and score; questions that are searched for at once
_ROW_BYTES = 700  # of a passage in the output, unpacked


def plan_mine(config: MineConfig, encoder: str | None, passages: str | None, index: str | None) -> Plan:
    """Of an index that is there, or of an encoder and passages. Raises UsageError and DataError as the run would."""
    asked = count_questions(config.sources, 0, answers_suffice=True)
    found = _of_index(config, index) if index is not None else _of_passages(config, encoder or "", passages or "")
    encoding = _encoding(config, asked, found.asking) / (MODEL_SHARE * matmul_flops() * machine_cpus())
    search = 2.0 * found.dimensions * found.rows * asked.questions / (SEARCH_SHARE * matmul_flops() * machine_cpus())
    memory = found.bytes + _QUESTION_BYTES * asked.questions + _HIT_BYTES * config.last * min(asked.questions, _BLOCK)
    output = asked.questions * _ROW_BYTES * (config.keep + 1) / 3  # packed
    total = found.seconds + encoding + search
    lines = [("questions", asked.told), *found.lines]
    lines += [
        (
            "search",
            f"ranks {config.first:,} to {config.last:,} of {found.rows:,} passages, at most about {duration(search)}",
        ),
        ("memory", f"about {megabytes(memory)}, the index of {megabytes(found.bytes)} among it"),
        ("output bytes", f"about {megabytes(output)} of questions with {config.keep} negatives each"),
        ("time", f"about {duration(total)} on {machine_cpus()} CPUs"),
    ]
    figures = {
        "questions": asked.questions,
        "rows": found.rows,
        "bytes": memory,
        "output_bytes": output,
        "seconds": total,
    }
    return Plan(stage="mine", lines=lines, figures=figures)


class _Searched(NamedTuple):
    """What is searched: its rows, its bytes and the seconds until it is there; the shape of the questions' encoder."""

    lines: list[tuple[str, str]]
    rows: int
    dimensions: int
    bytes: float
    seconds: float
    asking: EncoderShape


def _of_index(config: MineConfig, uri: str) -> _Searched:
    artifact = open_artifact(uri, "index")
    rows, dimensions = int(artifact.summary["rows"]), int(artifact.summary["dimensions"])
    size = sum(file.bytes for file in artifact.files)
    asking = source_shape(config.question_encoder or artifact.summary["encoder"]["uri"])
    return _Searched([], rows, dimensions, size, 0.0, asking)


def _of_passages(config: MineConfig, encoder: str, passages: str) -> _Searched:
    shape = source_shape(encoder)
    embedding = plan_embed(shape, passages, config.embed)
    rows = int(embedding.figures["rows"])
    shards = 1 if config.index.merge else -(-rows // config.index.shard_rows)
    choice = choose(Size(rows, shape.hidden, shards, rows - rows // 10), config.index)
    lines = [(f"embed: {name}", value) for name, value in embedding.lines]
    lines += [("index", f"{choice.factory}, {megabytes(choice.bytes)}")]
    asking = source_shape(config.question_encoder) if config.question_encoder else shape
    return _Searched(lines, rows, shape.hidden, choice.bytes, embedding.figures["seconds"], asking)


def _encoding(config: MineConfig, asked: QuestionCounts, shape: EncoderShape) -> float:
    tokens = asked.question_tokens(config.question_tokens or shape.positions)
    return 2.0 * (shape.parameters - shape.embedding_parameters) * asked.questions * tokens
