"""What a baseline will need: questions and passages, memory, time.

Passages of large files are counted by their first part. One collection after the other is held in memory: with BM25
10 kB a passage of 100 words, by chance 1 kB. BM25 reads, cuts into words and indexes 2,000 passages a second on one
core, and then adds up a question's words over all passages. Hits are written and scored, 60,000 a second (measured:
27,000 questions x 100 in 43 s); chance has as many as are asked for, BM25 those with a word of the question.
"""

from __future__ import annotations

from eval.baseline import BaselinesConfig, load_baseline
from jobs.plan import Plan, duration, megabytes
from jobs.row_counts import Rows, count_rows

_BYTES = {"bm25": 10_000, "random": 1_000}  # of a passage in memory
_PASSAGES_PER_S = {"bm25": 2_000, "random": 30_000}  # read, and indexed
_SCORED_PER_S = 50e6  # passages, of one question after the other
_HITS_PER_S = 60_000
_HIT_BYTES, _TEXT_BYTES = 50, 700  # of a line of a run, and of a prediction with its text


def plan_baseline(method: str, names: list[str], data: str, config: BaselinesConfig) -> Plan:
    """The plan of ranking these benchmarks' passages. Raises UsageError as the run would."""
    loaded = load_baseline(method, names, data, config)
    lines: list[tuple[str, str]] = []
    figures: dict[str, float] = {}
    size = seconds = largest = 0.0
    for name, benchmark in loaded.ranked().items():
        passages = {one.name: count_rows(one.uri) for one in benchmark.collections()}
        questions = benchmark.questions()
        every = sum(one.rows for one in passages.values())
        lines.append((name, f"{len(questions):,} questions, {_about(passages)}{every:,} passages"))
        figures |= {name: float(len(questions)), f"{name}.passages": float(every)}
        largest = max(largest, *(one.rows for one in passages.values()))
        compared = sum(passages[question.collection].rows for question in questions)
        hits = sum(min(benchmark.depth, passages[question.collection].rows) for question in questions)
        size += hits * (_TEXT_BYTES if benchmark.needs_text else _HIT_BYTES)
        seconds += every / _PASSAGES_PER_S[method] + compared / _SCORED_PER_S * (method == "bm25") + hits / _HITS_PER_S
    lines += [(name, "no data") for name in loaded.missing]
    lines += [
        ("output bytes", f"at most about {megabytes(size)}"),
        ("memory", f"about {megabytes(_BYTES[method] * largest)} and 200 MB"),
        ("time", f"about {duration(seconds)} on one CPU"),
    ]
    figures |= {"bytes": size, "memory": _BYTES[method] * largest, "seconds": seconds}
    return Plan(stage="baseline", lines=lines, figures=figures)


def _about(passages: dict[str, Rows]) -> str:
    return "" if all(one.exact for one in passages.values()) else "about "
