"""MRR@k and Recall@k of one run by trec_eval (pytrec_eval), as `trec_eval -c -M k -m recip_rank -m recall.k` has them.

-M k    only the k best hits of a question count: by score in single precision, ties by the larger id first
        (`eval.run_reader.trec_order`). The cut is made here; pytrec_eval has no -M.
-c      the mean is over all questions of the qrels: one without hits counts 0.

Questions of the run that the qrels do not know are ignored. 7,000 questions with 100 hits take 2 s on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytrec_eval

from ccp_ray.errors import DataError
from eval.ranked import Hit
from eval.run_reader import trec_order

Judged = Mapping[str, Mapping[str, int]]


def trec_scores(judged: Judged, run: Mapping[str, Sequence[Hit]], depth: int) -> dict[str, float]:
    """{"mrr@100": value, "recall@100": value} for depth 100. Raises DataError where a question has a hit twice."""
    cut = {name: _scores(name, run[name], depth) for name in judged if run.get(name)}
    measured = pytrec_eval.RelevanceEvaluator(
        {name: dict(documents) for name, documents in judged.items()}, {"recip_rank", f"recall.{depth}"}
    ).evaluate(cut)
    return {
        f"mrr@{depth}": _mean(measured, "recip_rank", len(judged)),
        f"recall@{depth}": _mean(measured, f"recall_{depth}", len(judged)),
    }


def _mean(measured: Mapping[str, Mapping[str, float]], name: str, count: int) -> float:
    return float(np.sum([scores[name] for scores in measured.values()], dtype=np.float64)) / count


def _scores(name: str, hits: Sequence[Hit], depth: int) -> dict[str, float]:
    if len({hit.id for hit in hits}) < len(hits):
        ids = [hit.id for hit in hits]
        twice = next(id for id in ids if ids.count(id) > 1)
        raise DataError(f"question {name!r}: document {twice!r} comes twice in the ranking")
    return {hit.id: hit.score for hit in trec_order(hits)[:depth]}
