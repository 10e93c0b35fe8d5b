"""What the encoders are worth on dev questions: loss, mean reciprocal rank, and the spaces that the monitor watches.

Dev passages are all positives and kept hard negatives of the dev questions, held in memory together (the 6,515
questions of Natural Questions with 8 negatives each: 58,000 x 768 in fp32 are 180 MB). The reciprocal rank is that of
the best answer among all of them, without a cut-off, ties counted against it. Answers are the positives of the row and
of its copies (`PairData.answers`); those of copies would else count as passages that beat it. The loss is that of
training, on batches of as many questions in their order, each with its first positive and its first hard negatives.

Texts are shared out to the ranks in equally many batches (ZeRO 3 gathers parameters in each pass); all ranks get all
vectors and find the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from ccp_ray.batching import Tokens
from ccp_ray.dual_encoder import SIDES, Side
from ccp_ray.encoder import Encoder
from ccp_ray.errors import CcpError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.monitor import Space, measure
from ccp_ray.objective import Sentences, pad_chunks
from ccp_ray.pair_batches import false_negatives
from ccp_ray.pair_data import Numbers, PairData
from ccp_ray.retrieval_loss import retrieval_loss, similarities

_ROWS = 1024  # questions that are ranked at once
_PAIRS = 256  # of a language, whose space is measured
_TEXTS = 32  # in a forward pass


class DevResult(NamedTuple):
    """Means over the questions; by language also, beside the space of its questions and their first positives."""

    loss: float
    mrr: float
    languages: dict[str, dict[str, float]]
    spaces: dict[str, Space]


class DevQuestions:
    """Measures encoders on the first questions of some data."""

    def __init__(
        self,
        config: FinetuneConfig,
        data: PairData,
        encoders: Mapping[str, Encoder],
        limit: int | None,
        where: torch.device,
    ) -> None:
        self.config, self.data, self.device = config, data, where
        first = next(iter(encoders.values()))
        self._pad = {side: encoders.get(side, first).pad_id for side in SIDES}
        self.questions = np.arange(min(limit or data.questions, data.questions))
        named = [np.concatenate([data.positives(int(q)), data.negatives(int(q))]) for q in self.questions]
        self.passages, place = np.unique(np.concatenate(named), return_inverse=True)
        self._first = place.reshape(-1)[np.cumsum([0, *map(len, named)])[:-1]]  # of each question, its first positive

    @torch.no_grad()
    def measure(self, engine: Any) -> DevResult:
        """Collective; leaves the training's random state alone. Raises CcpError for NaN or infinity."""
        engine.eval()
        try:
            question_QD = self._encode(engine, "question", self.data.question_tokens(self.questions))
            passage_ND = self._encode(engine, "passage", self.data.passage_tokens(self.passages))
        finally:
            engine.train()
        if not bool(question_QD.isfinite().all() and passage_ND.isfinite().all()):
            raise CcpError("NaN or infinity in the encoder's vectors of the dev questions; lower optimizer.lr")
        loss_Q, rank_Q = self._losses(question_QD, passage_ND), self._ranks(question_QD, passage_ND)
        languages, spaces = {}, {}
        for code, lang in enumerate(self.data.languages):
            own = np.flatnonzero(self.data.language_Q[self.questions] == code)
            if len(own):
                languages[lang] = {"loss": float(loss_Q[own].mean()), "mrr": float((1 / rank_Q[own]).mean())}
                spaces[lang] = self._space(question_QD, passage_ND, own[:_PAIRS])
        return DevResult(float(loss_Q.mean()), float((1 / rank_Q).mean()), languages, spaces)

    def _encode(self, engine: Any, side: Side, rows: list[Tokens]) -> torch.Tensor:
        """Vectors [N, D] of all rows, on every rank."""
        rank, world = dist.get_rank(), dist.get_world_size()
        order = np.argsort([len(row) for row in rows], kind="stable")
        batches = [order[start : start + _TEXTS] for start in range(0, len(order), _TEXTS)]
        batches += [batches[0]] * (-len(batches) % world)  # encoded twice, and taken once: see below
        own = range(rank, len(batches), world)
        out_ND = None
        for number in own:
            batch = batches[number]
            vectors_BD = engine.module.encode(side, self._padded(side, [rows[i] for i in batch]))
            if out_ND is None:
                out_ND = torch.zeros(len(rows), vectors_BD.shape[1], device=self.device)
            if number * _TEXTS < len(rows):
                out_ND[torch.from_numpy(batch).to(self.device)] = vectors_BD
        assert out_ND is not None
        dist.all_reduce(out_ND)  # each row is zero on all ranks but one, so this adds nothing
        return out_ND

    def _padded(self, side: Side, rows: list[Tokens]) -> Sentences:
        return Sentences(*pad_chunks(rows, self._pad[side], 1, self.device))

    def _losses(self, question_QD: torch.Tensor, passage_ND: torch.Tensor) -> NDArray[np.float64]:
        """The loss of each question [Q]."""
        config, found = self.config, []
        for start in range(0, len(self.questions), config.batch):
            batch_B = self.questions[start : start + config.batch]
            candidates = [self._candidates(int(question)) for question in batch_B]
            flat_C = np.concatenate(candidates)
            own_B = np.cumsum([0, *map(len, candidates)])[:-1]
            output = retrieval_loss(
                question_QD[start : start + len(batch_B)],
                passage_ND[torch.from_numpy(np.searchsorted(self.passages, flat_C)).to(self.device)],
                torch.from_numpy(own_B).to(self.device),
                torch.from_numpy(false_negatives(self.data, batch_B, flat_C, own_B)).to(self.device),
                config.similarity,
                config.temperature,
            )
            found.append(output.loss_B.double().cpu().numpy())
        return np.concatenate(found)

    def _candidates(self, question: int) -> Numbers:
        """Its first positive and first hard negatives, as many as it has."""
        hard = self.data.negatives(question)[: self.config.hard_negatives]
        return np.concatenate([self.data.positives(question)[:1], hard])

    def _ranks(self, question_QD: torch.Tensor, passage_ND: torch.Tensor) -> NDArray[np.float64]:
        """The rank [Q] of each question's best answer among all dev passages, from 1."""
        found = []
        for start in range(0, len(self.questions), _ROWS):
            block = self.questions[start : start + _ROWS]
            score_BN = similarities(question_QD[start : start + _ROWS], passage_ND, self.config.similarity)
            own_BN = torch.zeros_like(score_BN, dtype=torch.bool)
            for row, question in enumerate(block):
                own_BN[row, torch.from_numpy(self._places(int(question))).to(self.device)] = True
            best_B1 = score_BN.masked_fill(~own_BN, float("-inf")).amax(1, keepdim=True)
            found.append(1 + ((score_BN >= best_B1) & ~own_BN).sum(1).double().cpu().numpy())
        return np.concatenate(found)

    def _places(self, question: int) -> Numbers:
        """Where the passages that answer it stand among those ranked; a copy past the limit may name others."""
        answers = np.intersect1d(self.data.answers(question), self.passages, assume_unique=True)
        return np.searchsorted(self.passages, answers)

    def _space(self, question_QD: torch.Tensor, passage_ND: torch.Tensor, own: Numbers) -> Space:
        return measure(question_QD[own].cpu().numpy(), passage_ND[self._first[own]].cpu().numpy())
