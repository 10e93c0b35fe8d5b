"""One worker's pretraining loop: steps, metrics rows, probes, checkpoints.

A step is `TrainingStep`; what the monitor sees is `EncoderProbe`. A resumed run repeats an undisturbed one bit for bit
at the same world size and ZeRO stage, its metrics rows too: an unfinished row travels in the checkpoint. What ranks
must agree on after each step (is every upload through, was one of us told to end) is summed with the step's metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from ccp_ray.checkpoints import Checkpoints
from ccp_ray.contexts import ContextReader
from ccp_ray.corpus import Corpus
from ccp_ray.encoder import Encoder
from ccp_ray.errors import CcpError, TrainingError
from ccp_ray.hardware import device
from ccp_ray.monitor import Monitor
from ccp_ray.preemption import Notice, Notices, PreemptedError
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.probe import EncoderProbe
from ccp_ray.progress import say
from ccp_ray.training_step import TrainingStep, metrics_row

Row = dict[str, Any]
Report = Callable[[Row], None]
_UPLOADING = "uploading"


class Pretraining:
    """The state of one worker."""

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        encoder: Encoder,
        output: str,
        draining: Callable[[], bool] | None = None,
        tell: Callable[[str], None] = say,
    ) -> None:
        """draining: whether Ray is about to take one of our nodes; all ranks ask together. tell: a line to a person."""
        self.config = config
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = device()
        self.encoder = encoder
        languages = config.languages or corpus.languages
        reader = ContextReader(corpus, languages, (encoder.prefix, encoder.suffix), config.max_tokens)
        self.step = TrainingStep(config, reader, encoder, (self.rank, self.world), self.device)
        self.engine = self.step.engine
        self.probe = EncoderProbe(config, reader, encoder, self.device)
        self.monitor = Monitor(config.monitor)
        resources = config.resources
        self.checkpoints = Checkpoints(output, resources.checkpoint_keep, resources.checkpoint_keep_every, tell)
        self.notices, self.tell = Notices(self.rank, draining), tell
        self.rows: list[Row] = []
        self._window: list[dict[str, float]] = []
        self._tokens = self._seconds = 0.0

    def run(self, report: Report) -> None:
        """Train from the last checkpoint to the last step; `report` gets each metrics row (rank 0).

        Raises TrainingError (the last checkpoint is kept), CcpError where ranks' banks differ, StoreError,
        PreemptedError after a SIGTERM.
        """
        step = self._restore()
        if step == 0:
            self._probe(0, report)
        try:
            self._train(step, report)
        except TrainingError:
            self.checkpoints.settle()  # raised by all ranks at the same step: a save before it is good
            raise
        self.checkpoints.settle()

    def _train(self, step: int, report: Report) -> None:
        started = time.monotonic()
        while step < self.config.steps:
            notice = self._advance(step)
            step += 1
            last = step == self.config.steps
            if step % self.config.log_every == 0 or last:
                self._log(step, time.monotonic() - started, report)
                started = time.monotonic()
            if step % self.config.monitor.every == 0 or last:
                self._probe(step, report)
            if step % self.config.resources.checkpoint_every == 0 or last or notice is not Notice.NONE:
                self.checkpoints.settle()  # before what may fail: the save in flight is a good one
                self._check_weights(step)
                self.checkpoints.save(self.engine, step, self.step.state(), self._progress())
            if notice is not Notice.NONE:
                self.checkpoints.settle()  # now: the node may be gone before the next step would commit it
                said = f"{notice.value}; the checkpoint of step {step} is complete"
                if self.rank == 0:
                    self.tell(said)
                if notice is Notice.END and not last:
                    raise PreemptedError(said)

    def _advance(self, step: int) -> Notice:
        """One step; then what all ranks have agreed on with its metrics."""
        signals = {_UPLOADING: float(self.checkpoints.uploading)} | self.notices.signals()
        means = self.step.run(step, signals)
        agreed = {name: means.pop(name) for name in signals}
        self._window.append(means)
        if self.checkpoints.saving and agreed[_UPLOADING] == 0:
            self.checkpoints.settle()
        return self.notices.heed(agreed)

    def _progress(self) -> dict[str, Any]:
        return {"rows": self.rows, "window": self._window}

    def tokens_per_s(self) -> float:
        """Real tokens a second over all ranks, in the steps that this process ran."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def _log(self, step: int, seconds: float, report: Report) -> None:
        """Close a metrics row: means over the steps since the last. Speeds stay out, so that it can be repeated."""
        row: Row = {"step": step} | metrics_row(self._window)
        tokens = row["tokens"] * self.config.groups_per_step * len(self._window)
        self._tokens += tokens
        self._seconds += seconds
        self._window.clear()
        self.rows.append(row)
        if self.rank == 0:
            report(row | {"tokens_per_s": tokens / seconds})

    def _probe(self, step: int, report: Report) -> None:
        """Measure the probe and judge it."""
        try:
            probe = self.probe.measure(self.engine, self.step.running.current())
        except CcpError as error:
            raise TrainingError(f"{error} (at step {step}; the last checkpoint is kept)") from None
        training = next((row for row in reversed(self.rows) if "probe" not in row), None)
        problems = self.monitor.judge(step, probe, training)
        epochs = self.step.epochs(step)
        measured = {lang: value.model_dump() | {"epochs": epochs[lang]} for lang, value in probe.items()}
        self.rows.append({"step": step, "probe": measured} | ({"problems": problems} if problems else {}))
        if self.rank == 0:
            report(self.rows[-1])
        if problems and self.config.monitor.action == "stop":
            raise TrainingError(f"{'; '.join(problems)} (run again with monitor.action=warn to train on)")

    def _check_weights(self, step: int) -> None:
        """The loss is computed before the update: only this keeps broken weights out of a checkpoint."""
        # Under ZeRO 3 a parameter is empty and this rank's share of it is `ds_tensor`.
        parameters = [getattr(p, "ds_tensor", p).detach() for p in self.engine.module.parameters()]
        broken = torch.tensor(float(any(not bool(p.isfinite().all()) for p in parameters)), device=self.device)
        dist.all_reduce(broken)
        if broken > 0:
            raise TrainingError(
                f"weights are not finite after step {step}; the last checkpoint is kept; "
                "lower optimizer.lr and choose another --output"
            )

    def _restore(self) -> int:
        restored = self.checkpoints.restore(self.engine)
        if restored is None:
            return 0
        self.step.load(restored.state)
        self.rows, self._window = restored.progress["rows"], restored.progress["window"]
        for row in self.rows:
            for lang, value in row.get("probe", {}).items():
                self.monitor.best_std[lang] = max(value["std"], self.monitor.best_std.get(lang, 0.0))
        if self.rank == 0:
            count = f"{self.world} worker{'s' * (self.world > 1)}"
            self.tell(f"going on from the checkpoint of step {restored.step} with {count}")
        return restored.step
