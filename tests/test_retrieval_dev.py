"""Dev MRR and loss where a question stands in several rows: what answers it in one answers it in all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pair_files
import pytest
import tiny_models
import torch
from numpy.typing import NDArray
from ranks import run_ranks

from ccp_ray.config import build_config
from ccp_ray.dual_encoder import DualEncoder
from ccp_ray.encoder import Encoder
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.passages import joined
from ccp_ray.retrieval_dev import DevQuestions, DevResult

LIMIT = 18  # of 24 rows: the copies past it name passages that are not ranked


def rows() -> list[dict[str, Any]]:
    """24 rows of 8 questions, each with a positive of its own and two hard negatives."""
    found = pair_files.rows(24, negatives=2)
    for number, row in enumerate(found):
        row["question"] = found[number % 8]["question"]
        row["positive_ctxs"] = [{"title": "", "text": pair_files.text(np.random.default_rng(number), 14)}]
    return found


def encoder() -> Encoder:
    return Encoder(tiny_models.bert(seed=3).train(), tiny_models.tokenizer(), "mean", max_tokens=16)


def measured(rank: int, world: int, store: str) -> DevResult:
    base = {"encoder": {"source": "unused"}, "train": [{"file": "unused"}], "max_steps": 1, "similarity": "cosine"}
    encoders = {"encoder": encoder()}
    module = DualEncoder(encoders)
    engine = SimpleNamespace(module=module, eval=module.eval, train=module.train)
    data = pair_files.open_tiny_pairs(store)
    return DevQuestions(build_config(FinetuneConfig, base), data, encoders, LIMIT, torch.device("cpu")).measure(engine)


def test_the_rank_is_that_of_the_best_answer_of_any_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    """NumPy over the rows' own texts; every answer of another row would else count as a passage that came before."""
    found, store = rows(), str(tmp_path_factory.mktemp("dev") / "data")
    pair_files.tiny_pairs(store, found)
    texts = [[joined(p["title"], p["text"]) for p in (*r["positive_ctxs"], *r["hard_negative_ctxs"])] for r in found]
    ranked = list(dict.fromkeys(text for row in texts[:LIMIT] for text in row))
    answers = [{texts[other][0] for other in range(24) if other % 8 == number % 8} for number in range(LIMIT)]
    assert any(not own <= set(ranked) for own in answers)
    model = encoder()
    model.model.eval()
    question_QD, passage_ND = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (model.encode([row["question"] for row in found[:LIMIT]]), model.encode(ranked))
    )
    score_QN = question_QD @ passage_ND.T
    expected = reciprocal_ranks(score_QN, [[text in own for text in ranked] for own in answers])
    alone = reciprocal_ranks(score_QN, [[text == row[0] for text in ranked] for row in texts[:LIMIT]])
    assert alone.mean() < 0.9 * expected.mean()
    first, second = run_ranks(2, measured, store)
    assert first.mrr == second.mrr == pytest.approx(expected.mean())
    for code, lang in enumerate(pair_files.LANGUAGES):
        assert first.languages[lang]["mrr"] == pytest.approx(expected[code::3].mean())


def reciprocal_ranks(score_QN: NDArray[np.float32], good_QN: list[list[bool]]) -> NDArray[np.float64]:
    """Of the best good one, ties counted against it."""
    found = []
    for score_N, good_N in zip(score_QN, np.array(good_QN), strict=True):
        found.append(1 / (1 + (score_N[~good_N] >= score_N[good_N].max()).sum()))
    return np.array(found)
