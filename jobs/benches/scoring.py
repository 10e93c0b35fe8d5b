"""The scoring part of the bench: what a benchmark costs once its lists are ranked, at the sizes that papers report.

* XOR-Retrieve: 2,110 questions x 100 of 4,220 passages of 100 words. A third of the answers are spans of a ranked
  passage, at any rank; a third are two words that stand in it far apart, so that nothing but tokenising to the end
  shows that they are no span; a third stand nowhere.
* Mr.TyDi: a run file of 7,000 questions x 100 hits, read, ordered and scored by trec_eval.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ccp_ray.session import ray_session
from eval.ranked import Hit
from eval.run_reader import read_run, to_trec
from eval.trec_measures import trec_scores
from eval.word_tokens import WordTokens
from eval.xor_measures import Asked, answered
from jobs.benches.figures import BenchOptions, Figure, interleaved, median, report
from jobs.benches.texts import bench_texts

_WORDS, _DEPTH = 100, 100
_LIMITS = (2000, 5000)
_XOR, _TREC = "XOR-Retrieve", "Mr.TyDi"
_SENTENCES_A_PASSAGE = 12


def scoring_bench(options: BenchOptions, xor_questions: int = 2110, run_questions: int = 7000) -> dict[str, Any]:
    """The figures, at sizes that only tests change."""
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, ray_session():
        passages = _passages(options, 2 * xor_questions, Path(folder))
        asked = _asked(passages, xor_questions)
        file = Path(folder, "run.trec")
        judged = _write_run(file, run_questions)
        contenders = {_XOR: lambda: _xor_seconds(asked), _TREC: lambda: _trec_seconds(file, judged)}
        rounds = interleaved(contenders, options.rounds, "scoring")
    figures = [
        Figure(f"{_XOR}: {xor_questions:,} questions x {_DEPTH} passages", median(rounds, _XOR), "s", at_most=30),
        Figure(f"{_TREC}: a run of {run_questions:,} questions x {_DEPTH}", median(rounds, _TREC), "s", at_most=5),
    ]
    return report(figures, passages=len(passages), seconds=rounds)


def _passages(options: BenchOptions, count: int, folder: Path) -> list[str]:
    words = " ".join(bench_texts(options.documents, _SENTENCES_A_PASSAGE * count, folder).texts).split()
    starts = range(0, max(len(words) - _WORDS, 1), max(1, len(words) // count))
    return [" ".join(words[start : start + _WORDS]) for start in starts][:count]


def _asked(passages: list[str], questions: int) -> dict[str, Asked]:
    rng = np.random.default_rng(0)
    found = {}
    for number in range(questions):
        ranked = [passages[row] for row in rng.integers(len(passages), size=_DEPTH)]
        words = ranked[int(rng.integers(_DEPTH))].split()
        answer = (" ".join(words[40:42]), f"{words[60]} {words[20]}", f"zz{number}")[number % 3]
        found[f"{number}"] = Asked([answer], ranked)
    return found


def _xor_seconds(asked: dict[str, Asked]) -> float:
    started = time.perf_counter()
    answered(asked, _LIMITS, WordTokens())
    return time.perf_counter() - started


def _write_run(file: Path, questions: int) -> dict[str, dict[str, int]]:
    """A run file; its judgements are returned."""
    rng = np.random.default_rng(0)
    run = {f"q{i}": [Hit(f"{i + 7 * n}#{n}", float(rng.random())) for n in range(_DEPTH)] for i in range(questions)}
    file.write_bytes(to_trec(run, "bench"))
    return {name: {hits[7].id: 1} for name, hits in run.items()}


def _trec_seconds(file: Path, judged: dict[str, dict[str, int]]) -> float:
    started = time.perf_counter()
    trec_scores(judged, read_run(str(file)), _DEPTH)
    return time.perf_counter() - started
