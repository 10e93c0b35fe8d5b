"""One worker's pretraining loop, top to bottom.

A step: the rank's share of the global batch's groups, each forward and backward; one optimiser step; then keys
and batch statistics of all ranks are gathered in group order, pushed to the banks and folded into the running
statistics. What follows a step depends on (seed, step) and the state saved in checkpoints, on nothing else, so a
resumed run repeats an undisturbed one bit for bit at the same world size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from ccp_ray.bank import LanguageBanks
from ccp_ray.batching import pad
from ccp_ray.checkpoints import Checkpoints
from ccp_ray.contexts import ContextReader
from ccp_ray.corpus import Corpus
from ccp_ray.encoder import Encoder
from ccp_ray.engine import learning_rates, set_learning_rates, start_engine
from ccp_ray.errors import CcpError
from ccp_ray.hardware import device
from ccp_ray.head import RunningStatistics
from ccp_ray.loss import ContrastiveOutput, bidirectional_info_nce
from ccp_ray.mlm import masked_copy
from ccp_ray.monitor import Monitor, Probe, measure
from ccp_ray.objective import CcpModel, GroupBatch, GroupOutput, MaskedBatch, collate, pad_chunks
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler, random_generator

Row = dict[str, Any]
Report = Callable[[Row], None]


class StepResult(NamedTuple):
    """Means over all groups of the step, by metric name, and the keys for the banks of this rank's groups."""

    metrics: dict[str, float]
    keys_GPD: torch.Tensor
    hashes_GP: torch.Tensor
    statistics_G2D: torch.Tensor


class Pretraining:
    """The state of one worker."""

    def __init__(self, config: PretrainConfig, corpus: Corpus, encoder: Encoder, output: str) -> None:
        self.config = config
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.groups = config.groups_per_step // self.world
        self.device = device()
        self.encoder = encoder
        languages = config.languages or corpus.languages
        self.reader = ContextReader(corpus, languages, (encoder.prefix, encoder.suffix), config.max_tokens)
        self.sampler = self._sampler("pairs", config.groups_per_step)
        self.mlm_sampler = self._sampler("mlm", config.groups_per_step)
        self.banks = LanguageBanks(
            self.sampler.languages, config.bank.size, config.projection, config.bank.max_age, self.device
        )
        self.running = RunningStatistics(config.projection, config.norm_momentum, self.device)
        self.monitor = Monitor(config.monitor)
        torch.manual_seed(config.seed)
        model = CcpModel(encoder.model, encoder.pooling, config.projection, config.mlm.weight > 0)
        if config.deepspeed.activation_checkpointing:
            encoder.model.gradient_checkpointing_enable()
        self.engine = start_engine(model, config, self.world)
        self.engine.train()
        self.checkpoints = Checkpoints(output, config.resources.checkpoint_keep)
        self.rows: list[Row] = []
        self._window: list[dict[str, float]] = []
        self._tokens = self._seconds = 0.0

    def run(self, report: Report) -> None:
        """Train from the last checkpoint to the last step; `report` gets each metrics row (rank 0)."""
        step = self._restore()
        if step == 0:
            self._probe(0, report)
        # A checkpoint closes a metrics row: a resumed run must write the rows of an undisturbed one.
        log_every = self.config.log_every
        every = -(-self.config.resources.checkpoint_every // log_every) * log_every
        started = time.monotonic()
        while step < self.config.steps:
            self._window.append(self._step(step))
            step += 1
            last = step == self.config.steps
            if step % log_every == 0 or last:
                self._log(step, time.monotonic() - started, report)
                started = time.monotonic()
            if step % self.config.monitor.every == 0 or last:
                self._probe(step, report)
            if step % every == 0 or last:
                self._check_weights(step)
                self.checkpoints.save(self.engine, step, self._state(), self.rows)

    def tokens_per_s(self) -> float:
        """Real tokens a second over all ranks, in the steps that this process ran."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def _step(self, step: int) -> dict[str, float]:
        config = self.config
        set_learning_rates(self.engine, rates := learning_rates(config.optimizer, config.steps, step))
        result = self._groups(step)
        self._after_step(step, result)
        means = self._mean_over_ranks(result.metrics)
        if not np.isfinite(means["loss"]):
            raise CcpError(
                f"the loss is {means['loss']} at step {step}; lower optimizer.lr and choose another --output"
            )
        return means | {"lr": rates["encoder"], "bank_fill": self.banks.fill() if config.bank.size else 0.0}

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
        return StepResult(means, torch.stack(keys), torch.stack(hashes), torch.stack(statistics))

    def _contrast(
        self, output: GroupOutput, lang: str, running_side: int, step: int
    ) -> tuple[ContrastiveOutput, torch.Tensor]:
        use_bank = self.config.bank.size > 0 and step >= self.config.bank.warmup_steps
        negatives = self.banks.negatives(lang, step) if use_bank else None
        contrast = bidirectional_info_nce(
            output.centre, output.context, negatives, running_side, self.config.temperature
        )
        return contrast, negatives.ages_M if negatives else torch.zeros(0)

    def _after_step(self, step: int, result: StepResult) -> None:
        """Push all ranks' keys in group order and fold their statistics in: every rank does the same."""
        if self.config.bank.size:
            keys_GPD, hashes_GP = self._gather(result.keys_GPD), self._gather(result.hashes_GP)
            for group, (keys_PD, hashes_P) in enumerate(zip(keys_GPD, hashes_GP, strict=True)):
                self.banks.push(self.sampler.language(step, group), keys_PD, hashes_P, step)
        self.running.update(self._gather(result.statistics_G2D))

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

    def _sampler(self, stream: str, groups: int) -> Sampler:
        return Sampler(self.config.seed, self.reader.sizes, self.config.language_exponent, groups, stream)

    def _log(self, step: int, seconds: float, report: Report) -> None:
        """Close a metrics row: means over the steps since the last. Speeds stay out, so that it can be repeated."""
        names = self._window[0]
        row: Row = {"step": step} | {name: float(np.mean([one[name] for one in self._window])) for name in names}
        tokens = row["tokens"] * self.config.groups_per_step * len(self._window)
        self._tokens += tokens
        self._seconds += seconds
        self._window.clear()
        self.rows.append(row)
        if self.rank == 0:
            report(row | {"tokens_per_s": tokens / seconds})

    def _probe(self, step: int, report: Report) -> None:
        """Measure the probe (every rank does: ZeRO 3 gathers parameters in each pass) and judge it."""
        probe = {lang: self._probe_language(lang) for lang in self.sampler.languages}
        training = next((row for row in reversed(self.rows) if "probe" not in row), None)
        problems = self.monitor.judge(step, probe, training)
        row: Row = {"step": step, "probe": {lang: value.model_dump() for lang, value in probe.items()}}
        self.rows.append(row | ({"problems": problems} if problems else {}))
        if self.rank == 0:
            report(self.rows[-1])
        if problems and self.config.monitor.action == "stop":
            raise CcpError(f"{'; '.join(problems)} (with monitor.action=warn, another --output trains on)")

    @torch.no_grad()
    def _probe_language(self, lang: str) -> Probe:
        count = min(self.config.monitor.pairs, self.reader.sizes[lang])
        indices = Sampler(self.config.seed, {lang: self.reader.sizes[lang]}, 1, 1, "probe").draw(0, 0, count).indices
        pairs = self.reader.pairs(lang, indices, self.config.radius, self.config.seed, "probe")
        padded, order = pad_chunks([*pairs.centres, *pairs.contexts], self.encoder.pad_id, 2, self.device)
        self.engine.eval()
        vectors_NH = self.engine.module.pooled(padded)[order].float().cpu().numpy()
        self.engine.train()
        return measure(vectors_NH[:count], vectors_NH[count:])

    def _check_weights(self, step: int) -> None:
        """The loss is computed before the update: only this keeps broken weights out of a checkpoint."""
        # Under ZeRO 3 a parameter is empty and this rank's share of it is `ds_tensor`.
        parameters = [getattr(p, "ds_tensor", p).detach() for p in self.engine.module.parameters()]
        broken = torch.tensor(float(any(not bool(p.isfinite().all()) for p in parameters)), device=self.device)
        dist.all_reduce(broken)
        if broken > 0:
            raise CcpError(f"weights are not finite after step {step}; lower optimizer.lr and choose another --output")

    def _state(self) -> dict[str, torch.Tensor]:
        return self.banks.state() | self.running.state()

    def _restore(self) -> int:
        restored = self.checkpoints.restore(self.engine)
        if restored is None:
            return 0
        self.banks.load(restored.state)
        self.running.load(restored.state)
        self.rows = restored.rows
        for row in self.rows:
            for lang, value in row.get("probe", {}).items():
                self.monitor.best_std[lang] = max(value["std"], self.monitor.best_std.get(lang, 0.0))
        return restored.step

    def _gather(self, own_G: torch.Tensor) -> torch.Tensor:
        """All ranks' groups, in group order."""
        parts = [torch.empty_like(own_G) for _ in range(self.world)]
        dist.all_gather(parts, own_G.contiguous())
        return torch.cat(parts)

    def _mean_over_ranks(self, metrics: dict[str, float]) -> dict[str, float]:
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(metrics, (values / self.world).tolist(), strict=True))


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
