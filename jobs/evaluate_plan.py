"""What an evaluation will need: texts, questions and passages to embed, and the exact search.

Passages of large files are counted by their first part, as for `embed --plan`: reading a collection of 18 million only
to count it takes minutes. Search is 2 operations a number, question, passage and variant, near the speed of the matrix
product (`eval.exact`); a rotation costs as much again where it is asked for.
"""

from __future__ import annotations

from ccp_ray.session import machine_cpus
from eval.evaluate import EvaluateConfig, load_any
from eval.loading import Loaded, refuse_for_sentences
from eval.protocol import VARIANTS
from eval.ranked import RankedBenchmark
from jobs.embed import plan_embed
from jobs.memory import EncoderShape
from jobs.plan import MEAN_TOKENS, Plan, duration, embed_plan, matmul_flops, megabytes, source_shape

_COPIES = 3  # of a piece in float32, whatever the variants: as stored, of a variant, in FAISS
SEARCH_SHARE = 0.6  # of the matrix product that exact search reaches; measured in `eval.exact`


def plan_evaluate(
    encoder: str, names: list[str], data: str, config: EvaluateConfig, calibrated: bool, query_encoder: bool = False
) -> Plan:
    """The plan of embedding these benchmarks' texts, and of searching their collections. Raises as `evaluate`."""
    loaded = load_any(names, data, config)
    refuse_for_sentences(loaded, query_encoder, config.similarity)
    return evaluation_plan(source_shape(encoder), loaded, config, calibrated)


def evaluation_plan(shape: EncoderShape, loaded: Loaded, config: EvaluateConfig, calibrated: bool) -> Plan:
    """The same of what is loaded, with an encoder of this shape."""
    texts = {name: len(benchmark.texts()) for name, benchmark in loaded.texts().items()}
    questions = {name: len(benchmark.questions()) for name, benchmark in loaded.ranked().items()}
    embeddings = _embeddings(shape, loaded.ranked(), config)
    passages = {uri: int(plan.figures["rows"]) for uri, plan in embeddings.items()}
    lines = [(name, f"{count:,} sentences to embed") for name, count in texts.items()]
    for name, benchmark in loaded.ranked().items():
        own = sum(passages[one.uri] for one in benchmark.collections())
        lines.append((name, f"{questions[name]:,} questions, about {own:,} passages to embed"))
    lines += [(name, "no data") for name in loaded.missing]
    figures = {name: float(count) for name, count in {**texts, **questions}.items()}
    width = 4 if config.embed.dtype == "float32" else 2
    sentences = sum(texts.values()) + sum(questions.values())
    rows = sentences + sum(passages.values())
    tokens = sentences * MEAN_TOKENS + sum(plan.figures["tokens"] for plan in embeddings.values())
    pieces = sum(-(-count // config.embed.piece_rows) for count in texts.values())
    pieces += sum(-(-count // config.questions.piece_rows) for count in questions.values())
    pieces += sum(-(-count // config.passages.piece_rows) for count in passages.values())
    embedded = embed_plan(rows, pieces, shape, width, machine_cpus(), tokens / max(rows, 1))
    lines += embedded.lines
    if passages:
        variants = len(VARIANTS) if calibrated else 1
        seconds = _search_seconds(loaded.ranked(), passages, shape.hidden, variants)
        memory = 4.0 * _COPIES * config.passages.piece_rows * shape.hidden
        lines.append(("search", f"about {duration(seconds)} on {machine_cpus()} CPUs, {variants} variants"))
        lines.append(("memory a search task", megabytes(memory)))
        figures |= {"passages": float(sum(passages.values())), "search_seconds": seconds, "search_bytes": memory}
    return Plan(stage="evaluate", lines=lines, figures=figures | embedded.figures)


def _embeddings(shape: EncoderShape, ranked: dict[str, RankedBenchmark], config: EvaluateConfig) -> dict[str, Plan]:
    """The plan of embedding each collection, by its URI."""
    uris = {one.uri for benchmark in ranked.values() for one in benchmark.collections()}
    return {uri: plan_embed(shape, uri, config.passages) for uri in sorted(uris)}


def _search_seconds(
    ranked: dict[str, RankedBenchmark], passages: dict[str, int], dimensions: int, variants: int
) -> float:
    products = 0
    for benchmark in ranked.values():
        rows = {one.name: passages[one.uri] for one in benchmark.collections()}
        products += sum(rows[question.collection] for question in benchmark.questions())
    return 2 * dimensions * products * variants / (SEARCH_SHARE * matmul_flops() * machine_cpus())
