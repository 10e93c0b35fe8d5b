"""trec_eval's reciprocal rank and recall in NumPy, from its documentation, without its code (pytrec_eval)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def measures(judged: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], depth: int) -> dict:
    """Means over all judged questions, of the `depth` best: single precision, larger ids first among ties."""
    reciprocal, recall = [], []
    for question, documents in judged.items():
        found = run.get(question, {})
        ids = np.array(sorted(found, reverse=True), dtype=object)
        scores = np.array([found[id] for id in ids], dtype=np.float32)
        top = ids[np.argsort(-scores, kind="stable")][:depth] if len(ids) else ids
        good = np.array([documents.get(id, 0) > 0 for id in top], dtype=bool)
        relevant = sum(grade > 0 for grade in documents.values())
        reciprocal.append(1 / (1 + np.argmax(good)) if good.any() else 0.0)
        recall.append(good.sum() / relevant if relevant else 0.0)
    return {f"mrr@{depth}": np.mean(reciprocal), f"recall@{depth}": np.mean(recall)}
