"""One optimiser step of fine-tuning, with negatives from all ranks and gradients equal to one process's.

    encode     each group of the rank; its vectors go to all ranks (two rows of D numbers a text, nothing else)
    loss       of the whole batch, on every rank; gradients of the loss by the rank's own vectors
    backward   each group again through the encoder, from these gradients (Gao et al. 2021, GradCache)

A rank with one group keeps the first pass's graph and has no second one. With more, groups are encoded without a graph
first and once more with it, so memory is one group's whatever the batch: 4/3 of the work. Dropout is seeded by (seed,
step, group), so both passes drop the same. Hence a batch of 8 x 6 questions gives the same loss and gradients on eight
GPUs and on one (`tests/test_finetune_step.py`: rtol 1e-5 at 1, 2 and 4 ranks, and against plain torch).

What follows a step depends on (seed, step) and the engine's state alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ccp_ray.collectives import gather_groups, mean_over_ranks
from ccp_ray.dual_encoder import SIDES, DualEncoder, PairGroup, PairVectors, collate_pairs
from ccp_ray.encoder import Encoder
from ccp_ray.engine import learning_rate, set_learning_rates, skipped, start_engine
from ccp_ray.errors import TrainingError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.language_loss import split_by_language
from ccp_ray.pair_batches import PairBatch, PairSampler
from ccp_ray.pair_data import PairData
from ccp_ray.retrieval_loss import RetrievalOutput, retrieval_loss
from ccp_ray.sampling import random_generator
from ccp_ray.step_clock import DATA, FORWARD_BACKWARD, OPTIMIZER, SYNC, StepClock

_NAMED = 8  # questions that an error names


class _Group(NamedTuple):
    """A group under way: its number in the batch, its texts, its vectors with or without a graph."""

    number: int
    texts: PairGroup
    vectors: PairVectors


class FinetuneStep:
    """Everything that a step needs and changes."""

    def __init__(
        self,
        config: FinetuneConfig,
        steps: int,
        data: PairData,
        encoders: Mapping[str, Encoder],
        ranks: tuple[int, int],
        where: torch.device,
    ) -> None:
        """steps: of the run, for the learning rate. encoders: by role. ranks: this rank and how many there are."""
        self.config, self.steps, self.data, self.device = config, steps, data, where
        self.rank, world = ranks
        self.groups = config.groups_per_step // world
        self.sampler = PairSampler(config, data)
        first = next(iter(encoders.values()))
        by_side = [encoders.get(side, first) for side in SIDES]
        self.pads = by_side[0].pad_id, by_side[1].pad_id
        self.engine: Any = start_engine(DualEncoder(encoders), config, world)
        self.engine.train()
        self.clock = StepClock(where)

    def run(self, step: int, signals: Mapping[str, float] | None = None) -> dict[str, float]:
        """Do the step; means over the batch by metric name, and over the ranks of `signals`.

        Raises TrainingError on all ranks for a loss that is not finite, naming questions it is of.
        """
        self.clock.start()
        rate = learning_rate(self.config.optimizer, self.steps, step)
        set_learning_rates(self.engine, {"encoder": rate})
        batch = self.sampler.batch(step)
        groups = [self._encoded(step, number, batch) for number in self._own()]
        output, gradients = self._loss(batch, groups)
        self._backward(step, groups, gradients)
        languages = [self.data.languages[self.data.language_Q[int(question)]] for question in batch.question_B]
        losses, shares = split_by_language(output.loss_B, languages, languages)  # every rank has the whole batch's
        means = mean_over_ranks(self._metrics(output, groups, signals or {}) | losses)
        self.clock.stop(SYNC)
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"the loss is {means['loss']} at step {step}, of {self._not_finite(batch, output)}; "
                "the last checkpoint is kept; lower optimizer.lr and choose another --output"
            )
        return means | shares | {"lr": rate, "skipped": float(skipped(self.engine))}

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing: weights and optimiser are the engine's."""
        return {}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """The counterpart of `state`."""
        assert not state

    def _own(self) -> range:
        return range(self.rank * self.groups, (self.rank + 1) * self.groups)

    def _encoded(self, step: int, number: int, batch: PairBatch) -> _Group:
        rows = slice(number * self.config.questions_per_group, (number + 1) * self.config.questions_per_group)
        texts = collate_pairs(
            self.data.question_tokens(batch.question_B[rows]),
            self.data.passage_tokens(batch.candidate_BN[rows].reshape(-1)),
            self.pads,
            self.config.chunks,
            self.device,
        )
        self.clock.lap(DATA)
        vectors = self._vectors(step, number, texts, graph=self.groups == 1)
        self.clock.lap(FORWARD_BACKWARD)
        return _Group(number, texts, vectors)

    def _vectors(self, step: int, number: int, texts: PairGroup, *, graph: bool) -> PairVectors:
        torch.manual_seed(int(random_generator(self.config.seed, "dropout", step, number).integers(1 << 62)))
        if graph:
            vectors: PairVectors = self.engine(texts)
            return vectors
        with torch.no_grad():
            return self.engine.module(texts)  # type: ignore[no-any-return]

    def _loss(self, batch: PairBatch, groups: list[_Group]) -> tuple[RetrievalOutput, list[PairVectors]]:
        """The loss of the whole batch, and its gradient by the vectors of each own group."""
        own = {
            side: torch.stack([getattr(group.vectors, field).detach() for group in groups])
            for side, field in zip(SIDES, PairVectors._fields, strict=True)
        }
        question_GPD, passage_GND = (vectors.requires_grad_() for vectors in gather_groups(own).values())
        self.clock.lap(SYNC)
        output = retrieval_loss(
            question_GPD.flatten(0, 1),
            passage_GND.flatten(0, 1),
            torch.from_numpy(batch.own_B).to(self.device),
            torch.from_numpy(batch.masked_BC).to(self.device),
            self.config.similarity,
            self.config.temperature,
        )
        by_question_GPD, by_passage_GND = torch.autograd.grad(output.loss, (question_GPD, passage_GND))
        return output, [PairVectors(by_question_GPD[group.number], by_passage_GND[group.number]) for group in groups]

    def _backward(self, step: int, groups: list[_Group], gradients: list[PairVectors]) -> None:
        """Backward through each group, and the optimiser step with the last.

        DeepSpeed takes the mean over all groups of all ranks, the loss's gradient is their sum: hence the factor.
        """
        for group, gradient in zip(groups, gradients, strict=True):
            vectors = group.vectors if self.groups == 1 else self._vectors(step, group.number, group.texts, graph=True)
            parts = [(side * by).sum() for side, by in zip(vectors, gradient, strict=True)]
            self.engine.backward(self.config.groups_per_step * torch.stack(parts).sum())
            self.clock.lap(FORWARD_BACKWARD)
            self.engine.step()
            self.clock.lap(OPTIMIZER)

    def _metrics(
        self, output: RetrievalOutput, groups: list[_Group], signals: Mapping[str, float]
    ) -> dict[str, torch.Tensor]:
        """On the device: the batch's own, the same on every rank, and those of each group [G]."""
        tokens_G2 = torch.tensor([group.texts.tokens for group in groups], dtype=torch.float32, device=self.device)
        found = {
            "loss": output.loss.detach(),
            "contrastive": output.loss.detach(),
            "chance": output.chance,
            "accuracy": output.accuracy,
            "masked_share": output.masked_share,
            "tokens": tokens_G2[:, 0],
            "padding_efficiency": tokens_G2[:, 0] / tokens_G2[:, 1],
        }
        return found | {name: torch.tensor(value, device=self.device) for name, value in signals.items()}

    def _not_finite(self, batch: PairBatch, output: RetrievalOutput) -> str:
        """Some of the questions whose loss is not finite, by language and number in the training data."""
        bad = torch.nonzero(~output.loss_B.isfinite())[:, 0].tolist()
        names = [
            f"{self.data.languages[self.data.language_Q[q]]} {q + 1}" for q in (int(batch.question_B[b]) for b in bad)
        ]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"questions {', '.join(names[:_NAMED])}{more} (language and number)"
