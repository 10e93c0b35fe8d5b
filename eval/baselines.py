"""Rankings that need no encoder: BM25 (bm25s, Lucene's formula) and chance.

BM25: sum over the question's words of idf x tf / (tf + k1 (1 - b + b length / mean length)), with
idf = ln(1 + (N - df + 0.5) / (df + 0.5)); k1 0.9 and b 0.4 as Anserini's defaults. Words by `eval.search_words`. A
passage without a word of the question is no hit. For XOR-Retrieve the question is in another language than the
passages, so only names, numbers and loans can match: a floor, not the translated BM25 of the literature.

Equal scores go by id, as in our own search. Memory: the collection's texts and words; 100,000 passages of 100 words
take about 1 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ccp_ray.config import StrictModel
from eval.collection_texts import Passages, read_collection
from eval.ranked import Hit, Judged, Question, RankedBenchmark, Run
from eval.search_words import search_words


class BaselineConfig(StrictModel):
    """BM25's two settings, and the seed of chance."""

    k1: float = Field(default=0.9, ge=0)
    b: float = Field(default=0.4, ge=0, le=1)
    seed: int = Field(default=0, ge=0)


Ranker = Callable[[str], tuple[Sequence[int], Sequence[float]]]
"""A question's text -> rows of the collection, best first, and their scores."""


def rank(benchmark: RankedBenchmark, method: str, config: BaselineConfig) -> Run:
    """The benchmark's run by "bm25" or "random". Raises what reading a collection raises."""
    runs: dict[str, dict[str, list[Hit]]] = {}
    asked: dict[str, list[Question]] = {}
    for question in benchmark.questions():
        asked.setdefault(question.collection, []).append(question)
    for collection in benchmark.collections():
        passages = read_collection(collection.uri)
        if isinstance(benchmark, Judged):
            benchmark.check_documents(collection.name, passages.ids)
        ranker = _RANKERS[method](passages, benchmark.depth, config)
        for question in asked.get(collection.name, []):
            rows, scores = ranker(question.text)
            runs.setdefault(question.lang, {})[question.id] = [
                Hit(passages.ids[row], score, passages.texts[row] if benchmark.needs_text else "")
                for row, score in zip(rows, scores, strict=True)
            ]
    return runs


def bm25_ranker(passages: Passages, depth: int, config: BaselineConfig) -> Ranker:
    """The `depth` best passages with a word of the question."""
    import bm25s  # with SciPy: half a second that other commands need not wait for

    index = bm25s.BM25(method="lucene", k1=config.k1, b=config.b)
    index.index([search_words(text) for text in passages.full], show_progress=False)
    place_N = _places(passages.ids)

    def ranked(text: str) -> tuple[Sequence[int], Sequence[float]]:
        words = [word for word in search_words(text) if word in index.vocab_dict]
        if not words:
            return [], []
        score_N = np.asarray(index.get_scores(words), dtype=np.float64)
        rows = _best(score_N, place_N, depth)
        return rows.tolist(), score_N[rows].tolist()

    return ranked


def random_ranker(passages: Passages, depth: int, config: BaselineConfig) -> Ranker:
    """Passages by lot, a function of (seed, question); scores fall by one."""
    count = min(depth, len(passages.ids))

    def ranked(text: str) -> tuple[Sequence[int], Sequence[float]]:
        rng = np.random.default_rng([config.seed, *hashlib.sha256(text.encode()).digest()])
        rows = rng.choice(len(passages.ids), size=count, replace=False)
        return rows.tolist(), np.arange(count, 0.0, -1.0).tolist()

    return ranked


_RANKERS: dict[str, Callable[[Passages, int, BaselineConfig], Ranker]] = {"bm25": bm25_ranker, "random": random_ranker}
METHODS = tuple(_RANKERS)


def _places(ids: Sequence[str]) -> NDArray[np.int64]:
    """Of each row: the place of its id among all, in order."""
    places = np.empty(len(ids), dtype=np.int64)
    places[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return places


def _best(score_N: NDArray[np.float64], place_N: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Rows of the k best positive scores; ties by id."""
    rows = np.flatnonzero(score_N > 0)
    if len(rows) > k:
        least = np.partition(score_N[rows], len(rows) - k)[len(rows) - k]
        rows = rows[score_N[rows] >= least]
    return rows[np.lexsort((place_N[rows], -score_N[rows]))][:k]
