"""Which questions and passages a step trains on, and which of them may count as negatives: a function of (seed, step).

A global batch is B = groups x questions, each with one of its positives and n hard negatives, so C = B x (1 + n)
candidates. Without a language exponent, questions come in endless epochs, each a keyed permutation of all of them
(`sampling`); with one, languages have shares and each goes through its own questions. Nothing has a state.

A question's candidates are all C passages, but for those that answer it and are not its own column: its positives and
those of its copies anywhere in the data, whosoever candidates they are here. Every rank works that out for the whole
batch from the arrays, so no rank need tell another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.errors import DataError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.pair_data import Numbers, PairData
from ccp_ray.sampling import Sampler, random_generator

_ALL = "all"


class PairBatch(NamedTuple):
    """Questions [B] by their numbers, candidates [B, 1+n] of each (its positive first), the column [B] of each one's
    positive among all C = B x (1+n), and [B, C] where a candidate is no negative of the question."""

    question_B: Numbers
    candidate_BN: Numbers
    own_B: Numbers
    masked_BC: NDArray[np.bool_]


class PairSampler:
    """Batches of the training questions."""

    def __init__(self, config: FinetuneConfig, data: PairData) -> None:
        """Raises DataError for a batch that is larger than the data, and for questions with too few hard negatives."""
        self.config, self.data = config, data
        check_questions(config, data)
        count_L = np.bincount(data.language_Q, minlength=len(data.languages))
        order_Q = np.argsort(data.language_Q, kind="stable")
        self._own = dict(zip(data.languages, np.split(order_Q, np.cumsum(count_L)[:-1]), strict=True))
        mixed = config.language_exponent is not None
        sizes = {lang: len(own) for lang, own in self._own.items()} if mixed else {_ALL: data.questions}
        self._sampler = Sampler(config.seed, sizes, config.language_exponent or 0.0, config.groups_per_step, "pairs")

    def batch(self, step: int) -> PairBatch:
        groups = range(self.config.groups_per_step)
        question_B = np.concatenate([self._questions(step, group) for group in groups])
        rng = random_generator(self.config.seed, "passages", step)
        candidate_BN = np.stack([self._candidates(int(question), rng) for question in question_B])
        own_B = np.arange(len(question_B)) * candidate_BN.shape[1]
        masked_BC = false_negatives(self.data, question_B, candidate_BN.reshape(-1), own_B)
        return PairBatch(question_B, candidate_BN, own_B, masked_BC)

    def epochs(self, step: int) -> float:
        """How often each question has been seen before the step, on average."""
        return step * self.config.batch / self.data.questions

    def _questions(self, step: int, group: int) -> Numbers:
        count = self.config.questions_per_group
        if self.config.language_exponent is None:
            return self._sampler.draw(step, group, count).indices
        draws = self._sampler.draw_mixed(step, group, count)
        return np.concatenate([self._own[lang][indices] for lang, indices in draws])

    def _candidates(self, question: int, rng: np.random.Generator) -> Numbers:
        """Its positive and n hard negatives."""
        wanted, shuffle = self.config.hard_negatives, self.config.shuffle
        positives, negatives = self.data.positives(question), self.data.negatives(question)
        own = int(positives[int(rng.integers(len(positives))) if shuffle else 0])
        chosen = rng.permutation(negatives)[:wanted] if shuffle else negatives[:wanted]
        filled = [int(number) for number in chosen]
        answers = self.data.answers(question) if len(filled) < wanted else ()
        while len(filled) < wanted:  # few_negatives=random
            other = int(rng.integers(self.data.passages))
            if other not in filled and other not in answers:
                filled.append(other)
        return np.array([own, *filled], dtype=np.int64)


def false_negatives(data: PairData, question_B: Numbers, candidate_C: Numbers, own_B: Numbers) -> NDArray[np.bool_]:
    """[B, C]: candidates that answer the question, but for the column `own_B` of its own positive."""
    masked_BC = np.stack([np.isin(candidate_C, data.answers(int(question))) for question in question_B])
    masked_BC[np.arange(len(question_B)), own_B] = False
    return masked_BC


def check_batch(config: FinetuneConfig, questions: int) -> None:
    """Raises DataError for a batch that is larger than so many training questions."""
    if config.batch > questions:
        raise DataError(
            f"a step takes {config.batch} questions (groups_per_step x questions_per_group), the training data has "
            f"{questions}; make one of the two smaller, or add questions"
        )


def check_questions(config: FinetuneConfig, data: PairData) -> None:
    """Raises DataError for a batch that is larger than the data, and for questions with too few hard negatives."""
    check_batch(config, data.questions)
    few = np.flatnonzero(data.negative_counts() < config.hard_negatives)
    if len(few) and config.few_negatives == "refuse":
        raise DataError(
            f"{len(few):,} of {data.questions:,} training questions have fewer hard negatives than "
            f"hard_negatives={config.hard_negatives}, the first is number {few[0] + 1}; mine some (`ccp-ray mine`), "
            "fill up with passages of other questions (few_negatives=random), or lower hard_negatives"
        )
    # Of the passages at most this many answer a question; the rest must do to fill up from.
    most = max(len(data.answers(int(question))) for question in few) if len(few) else 0
    if len(few) and data.passages - most < config.hard_negatives:
        raise DataError(
            f"hard_negatives={config.hard_negatives} cannot be filled up: there are {data.passages} passages in all"
        )
