"""Batches of questions that stand in several rows: what answers a question in one row is a negative in none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pair_files
import pytest

from ccp_ray.config import build_config
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.pair_batches import PairSampler, false_negatives
from ccp_ray.pair_data import PairData


def row(question: str, positives: str, negatives: str) -> dict[str, Any]:
    """Each letter is a passage."""
    named = {"positive_ctxs": positives, "hard_negative_ctxs": negatives}
    return {"question": question} | {key: [{"text": text} for text in texts] for key, texts in named.items()}


def lists(data: PairData, of: str) -> list[list[int]]:
    return [getattr(data, of)(question).tolist() for question in range(data.questions)]


def sampler(data: PairData, **changes: Any) -> PairSampler:
    base = {"encoder": {"source": "unused"}, "train": [{"file": "unused"}], "max_steps": 1}
    return PairSampler(build_config(FinetuneConfig, base | {"groups_per_step": 1} | changes), data)


def test_the_positives_of_a_copy_are_no_hard_negatives(tmp_path: Path) -> None:
    """Passages are numbered as they come: a 0, d 1, b 2, c 3. The first row's b is taken back when the second comes."""
    asked = [row("Who wrote it?", "a", "db"), row("who  wrote it?", "b", "ac"), row("Who else?", "c", "ab")]
    data = pair_files.tiny_pairs(str(tmp_path / "data"), asked)
    assert lists(data, "positives") == [[0], [2], [3]]
    assert lists(data, "answers") == [[0, 2], [0, 2], [3]]
    assert lists(data, "negatives") == [[1], [3], [0, 2]]
    assert data.negative_counts().tolist() == [1, 1, 2]


def test_a_place_that_an_earlier_copy_frees_goes_to_the_next_negative(tmp_path: Path) -> None:
    data = pair_files.tiny_pairs(str(tmp_path / "data"), [row("who?", "a", "b"), row("who?", "c", "adb")], negatives=2)
    assert lists(data, "negatives") == [[1], [3, 1]]


def test_the_answers_of_a_copy_that_is_not_in_the_batch_are_masked(tmp_path: Path) -> None:
    asked = [row("who?", "a", "c"), row("what?", "b", "c"), row("who?", "b", "d")]
    data = pair_files.tiny_pairs(str(tmp_path / "data"), asked)
    questions, candidates = np.array([0, 1]), np.array([0, 1, 2, 1])  # a c | b c
    assert false_negatives(data, questions, candidates, np.array([0, 2])).tolist() == [
        [False, False, True, False],
        [False, False, False, False],
    ]


@pytest.mark.parametrize("hard", [1, 5])
def test_no_candidate_answers_the_question_in_any_row(tmp_path: Path, hard: int) -> None:
    """Against the rows themselves, by their texts; where there are too few negatives, others' passages stand in."""
    found = pair_files.rows(24, negatives=4)
    for number, one in enumerate(found):
        one["question"] = found[number % 9]["question"]
    whole = {index: f"{p['title']}\n\n{p['text']}" for index, p in enumerate(_passages(found))}
    answers: dict[str, set[str]] = {}
    for one in found:
        answers.setdefault(one["question"], set()).update(f"{p['title']}\n\n{p['text']}" for p in one["positive_ctxs"])
    data = pair_files.tiny_pairs(str(tmp_path / "data"), found)
    assert data.passages == len(whole)
    drawn = sampler(data, hard_negatives=hard, few_negatives="random", questions_per_group=8)
    for step in range(6):
        batch = drawn.batch(step)
        for place, question in enumerate(batch.question_B.tolist()):
            own = answers[found[question]["question"]]
            told = [whole[number] in own for number in batch.candidate_BN.reshape(-1).tolist()]
            told[batch.own_B[place]] = False
            assert batch.masked_BC[place].tolist() == told
            assert not batch.masked_BC[place, batch.own_B[place] :][: 1 + hard].any()  # its own are all worth training


def _passages(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each once, in the order in which the rows are read."""
    every = [p for one in found for p in [*one["positive_ctxs"], *one["hard_negative_ctxs"]]]
    return list({(p["title"], p["text"]): p for p in every}.values())
