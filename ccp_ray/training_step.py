"""One optimiser step, as every rank runs it.

The rank's share of the global batch's groups, each forward and backward; one optimiser step; then keys and batch
statistics of all ranks are gathered in group order, pushed to the banks and folded into the running statistics. What
follows a step depends on (seed, step) and `state()`, on nothing else. A momentum key encoder, where there is one, gives
the keys and follows the weights after the step. Metrics leave the device once a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ccp_ray.bank import WHOLE, LanguageBanks, Shard
from ccp_ray.bank_term import BankTerm, bank_term
from ccp_ray.batching import pad
from ccp_ray.collectives import gather_groups, gather_objects, mean_over_ranks
from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder
from ccp_ray.engine import learning_rates, set_learning_rates, skipped, start_engine
from ccp_ray.errors import CcpError, TrainingError
from ccp_ray.head import RunningStatistics, Statistics
from ccp_ray.language_loss import joined_by_language, plain_names, split_by_language
from ccp_ray.loss import ContrastiveOutput, bidirectional_info_nce
from ccp_ray.mlm import masked_copy
from ccp_ray.momentum import KeyEncoder
from ccp_ray.objective import CcpModel, GroupBatch, GroupOutput, MaskedBatch, collate
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Draw, Sampler, random_generator
from ccp_ray.step_clock import DATA, FORWARD_BACKWARD, OPTIMIZER, SYNC, StepClock

_NAMED = 8  # documents of a group that an error names
_WITH_KEYS = ("staleness_gap", "bank_age", "bank_masked_share")  # 0 in a group that met no key of its bank


def metrics_row(steps: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over steps and groups; of `_WITH_KEYS` over the groups that met bank keys alone, for the zeros of the
    others would hide them; and the loss of each language's groups, unless groups are mixed."""
    row: dict[str, Any] = {name: sum(one[name] for one in steps) / len(steps) for name in plain_names(steps[0])}
    met, by_language = row["bank_groups"], joined_by_language(steps)
    row |= {name: row[name] / met if met else 0.0 for name in _WITH_KEYS}
    return row | ({"loss_by_language": by_language} if by_language else {})


class StepResult(NamedTuple):
    """Metrics of the rank's groups [G] by name, and what of them goes to the banks and running statistics."""

    metrics: dict[str, torch.Tensor]
    keys_GPD: torch.Tensor
    hashes_GP: torch.Tensor
    statistics_G2D: torch.Tensor


class TrainingStep:
    """Everything that a step needs and changes: samplers, model and engine, banks, running statistics, key encoder."""

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
        split = config.bank.placement == "sharded" and config.bank.size > 0
        shard = Shard(self.rank, world) if split else WHOLE
        self.banks = LanguageBanks(config.bank, self.sampler.languages, config.projection, where, config.seed, shard)
        torch.manual_seed(config.seed)
        with_mlm = config.mlm.weight > 0
        model = CcpModel(encoder.model, encoder.pooling, config.projection, with_mlm, config.norm, config.head_start)
        self.running = RunningStatistics(model.head.width, config.norm_momentum, where)
        self.keys = KeyEncoder(model, config.bank.momentum) if config.bank.momentum is not None else None
        self.clock = StepClock(where)
        self.engine = start_engine(model, config, world)
        self.engine.train()
        if self.keys:
            self.keys.place(where, next(self.engine.module.parameters()).dtype)

    def run(self, step: int, signals: Mapping[str, float] | None = None) -> dict[str, float]:
        """Do the step; means over all groups of all ranks by metric name, and over the ranks of `signals`.

        Raises TrainingError on all ranks for a loss not finite, naming the groups it is of.
        """
        config = self.config
        self.clock.start()
        set_learning_rates(self.engine, rates := learning_rates(config.optimizer, config.steps, step))
        result = self._groups(step)
        self._remember(step, result)
        told = {name: torch.tensor(value, device=self.device) for name, value in (signals or {}).items()}
        losses, shares = self._by_language(step, result.metrics["contrastive"])
        means = mean_over_ranks(result.metrics | losses | told)
        self.clock.stop(SYNC)
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"the loss is {means['loss']} at step {step}, in {self._not_finite(step, result.metrics['loss'])}; "
                "the last checkpoint is kept; lower optimizer.lr and choose another --output"
            )
        bank_fill = self.banks.fill() if config.bank.size else 0.0
        scalars = {"lr": rates["encoder"], "skipped": float(skipped(self.engine)), "bank_fill": bank_fill}
        return means | shares | scalars

    def epochs(self, step: int) -> dict[str, float]:
        """How often each language's sentences have been centres before the step."""
        return self.sampler.epochs(step, self.config.pairs_per_group, mixed=self.config.mixed_groups)

    def state(self) -> dict[str, torch.Tensor]:
        """What checkpoints keep besides the engine's own state: copies on the CPU, the same at any world size.

        Collective; rank 0 gets it, the others an empty dictionary. Raises CcpError where the ranks' banks differ:
        not a result of training, but a fault of the machine or of this code.
        """
        checksums = gather_objects(self.banks.checksum())
        if len(set(checksums)) > 1:
            raise CcpError(
                f"the ranks' banks differ (checksums {', '.join(c[:8] for c in checksums)}): a rank computed or "
                "received something else, which is a fault of its machine or a bug; nothing was saved; run again to "
                "go on from the last checkpoint"
            )
        banks = self.banks.state() if self.rank == 0 or self.banks.shard.ranks > 1 else {}
        if self.rank:
            return {}
        running = {name: tensor.cpu().clone() for name, tensor in self.running.state().items()}
        return banks | running | (self.keys.state() if self.keys else {})

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a `state()` of any world size; every rank gives the whole of it."""
        self.banks.load(state)
        self.running.load(state)
        if self.keys:
            self.keys.load(state)

    def _groups(self, step: int) -> StepResult:
        """Forward and backward of this rank's groups, and the optimiser step."""
        keys, hashes, statistics, metrics = [], [], [], []
        running = self.running.current()
        for group in range(self.rank * self.groups, (self.rank + 1) * self.groups):
            running_side = (step + group) % 2
            lang, batch = self._batch(step, group, running_side)
            torch.manual_seed(int(random_generator(self.config.seed, "dropout", step, group).integers(1 << 62)))
            self.clock.lap(DATA)
            output = self._forward(batch, running_side, running)
            contrast, term = self._contrast(output, lang, running_side, step)
            loss = contrast.loss + self.config.mlm.weight * output.mlm
            self.engine.backward(loss)
            self.clock.lap(FORWARD_BACKWARD)
            self.engine.step()
            self.clock.lap(OPTIMIZER)
            side = output.centre if running_side == 0 else output.context
            keys.append(side.vectors_PD.detach())
            hashes.append(side.hashes_P)
            statistics.append(torch.stack(output.statistics))
            metrics.append(_group_metrics(loss, contrast, output.mlm, term, batch, self.keys is None))
        stacked = {name: torch.stack([group[name] for group in metrics]) for name in metrics[0]}
        return StepResult(stacked, torch.stack(keys), torch.stack(hashes), torch.stack(statistics))

    def _forward(self, batch: GroupBatch, running_side: int, running: Statistics | None) -> GroupOutput:
        keys = self.keys.encode(batch.keys, running) if self.keys and batch.keys else None
        output: GroupOutput = self.engine(batch, running_side, running, keys)
        return output

    def _contrast(
        self, output: GroupOutput, lang: str, running_side: int, step: int
    ) -> tuple[ContrastiveOutput, BankTerm | None]:
        config, term = self.config, None
        sides = output.centre, output.context
        if config.bank.size > 0 and step >= config.bank.warmup_steps:
            queries, keys = sides[1 - running_side], sides[running_side]
            hashes_2P = torch.stack([queries.hashes_P, keys.hashes_P])
            term = bank_term(self.banks, lang, queries.vectors_PD, hashes_2P, step, config.temperature)
        both = self.keys is None
        return bidirectional_info_nce(*sides, term, running_side, config.temperature, both=both), term

    def _remember(self, step: int, result: StepResult) -> None:
        """Push all ranks' keys in group order and fold their statistics in: every rank does the same."""
        own: dict[str, torch.Tensor] = {}
        if self.config.bank.size:  # bf16 banks: half of the bytes on the way, too
            own |= {"keys": result.keys_GPD.to(self.banks.keys_LKD.dtype), "hashes": result.hashes_GP}
        if self.config.norm == "asymmetric":  # else there are none, and no side is normalised by them
            own["statistics"] = result.statistics_G2D
        everyones = gather_groups(own) if own else {}
        if "keys" in everyones:
            self.banks.push(self._languages(step), everyones["keys"], everyones["hashes"], step)
        if "statistics" in everyones:
            self.running.update(everyones["statistics"])
        if self.keys:
            self.keys.follow(self.engine.module)

    def _languages(self, step: int) -> list[str]:
        """Of all groups of all ranks; of mixed groups only a label."""
        return [self.sampler.language(step, group) for group in range(self.config.groups_per_step)]

    def _by_language(self, step: int, losses_G: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        if self.config.mixed_groups:
            return {}, {}
        languages = self._languages(step)
        own = languages[self.rank * self.groups : (self.rank + 1) * self.groups]
        return split_by_language(losses_G, own, languages)

    def _not_finite(self, step: int, losses_G: torch.Tensor) -> str:
        """The groups of all ranks whose loss is not finite, in words. Collective."""
        found = []
        for group, loss in enumerate(losses_G.tolist(), self.rank * self.groups):
            if not math.isfinite(loss):
                found.append(f"group {group} ({self._documents(step, group)}: {loss})")
        return "; ".join(name for names in gather_objects(found) for name in names)

    def _documents(self, step: int, group: int) -> str:
        """Where the group's centres are from, in words."""
        parts = []
        for lang, indices in self._draws(step, group):
            names = list(dict.fromkeys(self.reader.document(lang, int(index)) for index in indices))
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"language {lang!r}, documents {', '.join(names[:_NAMED])}{more}")
        return ", ".join(parts)

    def _draws(self, step: int, group: int) -> list[Draw]:
        """The centres of a group, by language; one language unless groups are mixed."""
        if self.config.mixed_groups:
            return self.sampler.draw_mixed(step, group, self.config.pairs_per_group)
        return [self.sampler.draw(step, group, self.config.pairs_per_group)]

    def _batch(self, step: int, group: int, running_side: int) -> tuple[str, GroupBatch]:
        config = self.config
        draws = self._draws(step, group)
        if config.mixed_groups:
            pairs = self.reader.mixed_pairs(draws, config.radius, config.seed, step, group)
        else:
            pairs = self.reader.pairs(*draws[0], config.radius, config.seed, step, group)
        masked = self._masked(step, group) if config.mlm.weight else None
        # A mixed group keeps the label that `sampler` gives every group: the one bank for all does not ask for it.
        return self.sampler.language(step, group), collate(
            pairs, masked, self.encoder.pad_id, config.chunks, self.device, running_side if self.keys else None
        )

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
    loss: torch.Tensor,
    contrast: ContrastiveOutput,
    mlm: torch.Tensor,
    term: BankTerm | None,
    batch: GroupBatch,
    both_directions: bool,
) -> dict[str, torch.Tensor]:
    """Scalars on the device. chance: the loss of guessing, over the directions trained. bank_groups: 1 where the group
    met keys of its bank."""
    real, padded = batch.tokens
    pairs = len(batch.centre_hashes_P)
    used, age = (term.used, term.age) if term else (torch.zeros_like(mlm), torch.zeros_like(mlm))
    chance = torch.log(pairs + used.double())
    return {
        "loss": loss.detach(),
        "contrastive": contrast.loss.detach(),
        "chance": (math.log(pairs) + chance) / 2 if both_directions else chance,
        "mlm": mlm.detach(),
        "accuracy": contrast.accuracy,
        "masked_share": contrast.masked_share,
        "bank_masked_share": contrast.bank_masked_share,
        "staleness_gap": contrast.staleness_gap,
        "bank_groups": (used > 0).to(mlm),
        "bank_used": used,
        "bank_age": age,
        "tokens": mlm.new_tensor(real),
        "padding_efficiency": mlm.new_tensor(real / padded),
    }
