"""One optimiser step, as every rank runs it.

The rank's share of the global batch's groups, each forward and backward; one optimiser step; then keys and batch
statistics of all ranks are gathered in group order, pushed to the banks and folded into the running statistics. What
follows a step depends on (seed, step) and `state()`, on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from ccp_ray.bank import LanguageBanks
from ccp_ray.batching import pad
from ccp_ray.collectives import gather_groups, gather_objects, mean_over_ranks
from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder
from ccp_ray.engine import learning_rates, set_learning_rates, start_engine
from ccp_ray.errors import DivergenceError
from ccp_ray.head import RunningStatistics
from ccp_ray.loss import ContrastiveOutput, bidirectional_info_nce
from ccp_ray.mlm import masked_copy
from ccp_ray.objective import CcpModel, GroupBatch, GroupOutput, MaskedBatch, collate
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler, random_generator


class StepResult(NamedTuple):
    """Means over the rank's groups by metric name, and what of them goes to the banks and running statistics."""

    metrics: dict[str, float]
    losses_G: list[float]
    keys_GPD: torch.Tensor
    hashes_GP: torch.Tensor
    statistics_G2D: torch.Tensor


class TrainingStep:
    """Everything that a step needs and changes: samplers, model and engine, banks, running statistics."""

    def __init__(
        self,
        config: PretrainConfig,
        reader: ContextReader,
        encoder: Encoder,
        ranks: tuple[int, int],
        where: torch.device,
    ) -> None:
        """ranks: this rank and how many there are."""
        self.config, self.reader, self.encoder, self.device = config, reader, encoder, where
        self.rank, world = ranks
        self.groups = config.groups_per_step // world
        self.sampler, self.mlm_sampler = self._sampler("pairs"), self._sampler("mlm")
        self.banks = LanguageBanks(
            self.sampler.languages, config.bank.size, config.projection, config.bank.max_age, where
        )
        self.running = RunningStatistics(config.projection, config.norm_momentum, where)
        torch.manual_seed(config.seed)
        model = CcpModel(encoder.model, encoder.pooling, config.projection, config.mlm.weight > 0)
        if config.deepspeed.activation_checkpointing:
            encoder.model.gradient_checkpointing_enable()
        self.engine = start_engine(model, config, world)
        self.engine.train()

    def run(self, step: int, signals: Mapping[str, float] | None = None) -> dict[str, float]:
        """Do the step; means over all groups of all ranks by metric name, and over the ranks of `signals`.

        Raises DivergenceError on all ranks for a loss not finite, naming the groups it is of.
        """
        config = self.config
        set_learning_rates(self.engine, rates := learning_rates(config.optimizer, config.steps, step))
        result = self._groups(step)
        self._remember(step, result)
        means = mean_over_ranks(result.metrics | dict(signals or {}), self.device)
        if not np.isfinite(means["loss"]):
            raise DivergenceError(
                f"the loss is {means['loss']} at step {step}, in {self._not_finite(step, result.losses_G)}; "
                "the last checkpoint is kept; lower optimizer.lr and choose another --output"
            )
        return means | {"lr": rates["encoder"], "bank_fill": self.banks.fill() if config.bank.size else 0.0}

    def state(self) -> dict[str, torch.Tensor]:
        """What checkpoints keep besides the engine's own state."""
        return self.banks.state() | self.running.state()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.banks.load(state)
        self.running.load(state)

    def _groups(self, step: int) -> StepResult:
        """Forward and backward of this rank's groups, and the optimiser step."""
        keys, hashes, statistics, metrics = [], [], [], []
        for group in range(self.rank * self.groups, (self.rank + 1) * self.groups):
            lang, batch = self._batch(step, group)
            running_side = (step + group) % 2
            torch.manual_seed(int(random_generator(self.config.seed, "dropout", step, group).integers(1 << 62)))
            output: GroupOutput = self.engine(batch, running_side, self.running.current())
            contrast, ages = self._contrast(output, lang, running_side, step)
            loss = contrast.loss + self.config.mlm.weight * output.mlm
            self.engine.backward(loss)
            self.engine.step()
            side = output.centre if running_side == 0 else output.context
            keys.append(side.vectors_PD.detach())
            hashes.append(side.hashes_P)
            statistics.append(torch.stack(output.statistics))
            metrics.append(_group_metrics(loss, contrast, output.mlm, ages, batch))
        means = {name: float(np.mean([group[name] for group in metrics])) for name in metrics[0]}
        losses = [group["loss"] for group in metrics]
        return StepResult(means, losses, torch.stack(keys), torch.stack(hashes), torch.stack(statistics))

    def _contrast(
        self, output: GroupOutput, lang: str, running_side: int, step: int
    ) -> tuple[ContrastiveOutput, torch.Tensor]:
        use_bank = self.config.bank.size > 0 and step >= self.config.bank.warmup_steps
        negatives = self.banks.negatives(lang, step) if use_bank else None
        contrast = bidirectional_info_nce(
            output.centre, output.context, negatives, running_side, self.config.temperature
        )
        return contrast, negatives.ages_M if negatives else torch.zeros(0)

    def _remember(self, step: int, result: StepResult) -> None:
        """Push all ranks' keys in group order and fold their statistics in: every rank does the same."""
        if self.config.bank.size:
            keys_GPD, hashes_GP = gather_groups(result.keys_GPD), gather_groups(result.hashes_GP)
            for group, (keys_PD, hashes_P) in enumerate(zip(keys_GPD, hashes_GP, strict=True)):
                self.banks.push(self.sampler.language(step, group), keys_PD, hashes_P, step)
        self.running.update(gather_groups(result.statistics_G2D))

    def _not_finite(self, step: int, losses_G: list[float]) -> str:
        """The groups of all ranks whose loss is not finite, in words. Collective."""
        found = []
        for group, loss in enumerate(losses_G, self.rank * self.groups):
            if not math.isfinite(loss):
                lang, indices = self.sampler.draw(step, group, self.config.pairs_per_group)
                first = ", ".join(str(index) for index in indices[:3])
                found.append(f"group {group} (language {lang!r}, sentences {first}, …: {loss})")
        return "; ".join(name for names in gather_objects(found) for name in names)

    def _batch(self, step: int, group: int) -> tuple[str, GroupBatch]:
        config = self.config
        lang, indices = self.sampler.draw(step, group, config.pairs_per_group)
        pairs = self.reader.pairs(lang, indices, config.radius, config.seed, step, group)
        masked = self._masked(step, group) if config.mlm.weight else None
        return lang, collate(pairs, masked, self.encoder.pad_id, config.chunks, self.device)

    def _masked(self, step: int, group: int) -> MaskedBatch:
        tokenizer, config = self.encoder.tokenizer, self.config
        lang, indices = self.mlm_sampler.draw(step, group, config.mlm.sentences)
        ids_BT, mask_BT = pad(self.reader.sentences(lang, indices), self.encoder.pad_id)
        rng = random_generator(config.seed, "mask", step, group)
        corrupted_BT, labels_BT = masked_copy(
            ids_BT, set(tokenizer.all_special_ids), tokenizer.mask_token_id, len(tokenizer), config.mlm.share, rng
        )
        return MaskedBatch(*(torch.from_numpy(array) for array in (corrupted_BT, mask_BT, labels_BT)))

    def _sampler(self, stream: str) -> Sampler:
        config = self.config
        return Sampler(config.seed, self.reader.sizes, config.language_exponent, config.groups_per_step, stream)


def _group_metrics(
    loss: torch.Tensor, contrast: ContrastiveOutput, mlm: torch.Tensor, ages: torch.Tensor, batch: GroupBatch
) -> dict[str, float]:
    real, padded = batch.tokens
    pairs = len(batch.centre_hashes_P)
    return {
        "loss": loss.item(),
        "contrastive": contrast.loss.item(),
        "chance": (math.log(pairs) + math.log(pairs + len(ages))) / 2,
        "mlm": mlm.item(),
        "accuracy": contrast.accuracy.item(),
        "masked_share": contrast.masked_share.item(),
        "staleness_gap": contrast.staleness_gap.item(),
        "bank_used": float(len(ages)),
        "bank_age": float(ages.float().mean()) if len(ages) else 0.0,
        "tokens": float(real),
        "padding_efficiency": real / padded,
    }
