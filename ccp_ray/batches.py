"""The batches of a step: drawn, read, masked and padded on one background thread while the step before computes.

A group's batch is a function of (seed, step, group), so nothing needs to be kept: a resumed run asks for any step, and
a step that was prefetched and never asked for is thrown away. One step ahead is enough: the quickstart's two groups
take 3.3 ms of one core to make and 130 ms to learn from. Two steps' batches are in memory at most.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from ccp_ray.batching import pad
from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder
from ccp_ray.mlm import masked_copy
from ccp_ray.objective import GroupBatch, MaskedBatch, collate
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler, random_generator

_HOST = torch.device("cpu")


class Group(NamedTuple):
    """One of a step's groups, by its number over all ranks."""

    number: int
    lang: str
    batch: GroupBatch


class Batches:
    """This rank's groups of any step."""

    def __init__(
        self,
        config: PretrainConfig,
        reader: ContextReader,
        encoder: Encoder,
        ranks: tuple[int, int],
        where: torch.device,
    ) -> None:
        """ranks: this rank and how many there are; it takes its share of the groups, in order."""
        self.config, self.reader, self.device = config, reader, where
        self.tokenizer, self.pad_id = encoder.tokenizer, encoder.pad_id
        self.special = set(encoder.tokenizer.all_special_ids)
        rank, world = ranks
        own = config.groups_per_step // world
        self.groups = range(rank * own, (rank + 1) * own)
        self.sampler, self.mlm_sampler = self._sampler("pairs"), self._sampler("mlm")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[list[Group]]] | None = None

    def step(self, step: int) -> list[Group]:
        """The groups of a step on the device; starts on those of the next one. Errors of making them appear here."""
        ready, self._ahead = self._ahead, None
        groups = ready[1].result() if ready and ready[0] == step else self._make(step)
        if step + 1 < self.config.steps:
            self._ahead = step + 1, self._thread.submit(self._make, step + 1)
        if self.device == _HOST:
            return groups
        return [group._replace(batch=group.batch.to(self.device)) for group in groups]

    def _make(self, step: int) -> list[Group]:
        return [self._group(step, number) for number in self.groups]

    def _group(self, step: int, number: int) -> Group:
        config = self.config
        lang, indices = self.sampler.draw(step, number, config.pairs_per_group)
        pairs = self.reader.pairs(lang, indices, config.radius, config.seed, step, number)
        masked = self._masked(step, number) if config.mlm.weight else None
        return Group(number, lang, collate(pairs, masked, self.pad_id, config.chunks, _HOST))

    def _masked(self, step: int, number: int) -> MaskedBatch:
        tokenizer, config = self.tokenizer, self.config
        lang, indices = self.mlm_sampler.draw(step, number, config.mlm.sentences)
        ids_BT, mask_BT = pad(self.reader.sentences(lang, indices), self.pad_id)
        rng = random_generator(config.seed, "mask", step, number)
        corrupted_BT, labels_BT = masked_copy(
            ids_BT, self.special, tokenizer.mask_token_id, len(tokenizer), config.mlm.share, rng
        )
        return MaskedBatch(*(torch.from_numpy(array) for array in (corrupted_BT, mask_BT, labels_BT)))

    def _sampler(self, stream: str) -> Sampler:
        config = self.config
        return Sampler(config.seed, self.reader.sizes, config.language_exponent, config.groups_per_step, stream)
