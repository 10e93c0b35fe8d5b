"""One worker's training loop, whatever a step is: steps, metrics rows, measurements, checkpoints.

A resumed run repeats an undisturbed one bit for bit at the same world size and ZeRO stage, its metrics rows too: an
unfinished row travels in the checkpoint. What ranks must agree on after each step (is every upload through, was one of
us told to end) is summed with the step's metrics.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ccp_ray.checkpoints import Checkpoints
from ccp_ray.errors import TrainingError
from ccp_ray.faults import reach
from ccp_ray.hardware import device
from ccp_ray.preemption import Notice, Notices, PreemptedError
from ccp_ray.process_metrics import total
from ccp_ray.progress import say
from ccp_ray.step_clock import CHECKPOINT, MEASURE, StepClock
from ccp_ray.training_config import TrainingConfig

Row = dict[str, Any]
Report = Callable[[Row], None]
_UPLOADING = "uploading"


class Step(Protocol):
    """What a training repeats. What follows a step depends on (seed, step) and `state()`, on nothing else."""

    engine: Any
    clock: StepClock

    def run(self, step: int, signals: Mapping[str, float] | None = None) -> dict[str, float]:
        """Do it; means over all ranks by metric name, and of `signals`. Raises TrainingError on all ranks."""

    def state(self) -> dict[str, torch.Tensor]:
        """What checkpoints keep besides the engine's own state; collective, on rank 0."""

    def load(self, state: dict[str, torch.Tensor]) -> None: ...


class TrainingLoop(ABC):
    """The state of one worker."""

    step: Step

    def __init__(
        self,
        config: TrainingConfig,
        steps: int,
        output: str,
        draining: Callable[[], bool] | None = None,
        tell: Callable[[str], None] = say,
    ) -> None:
        """draining: whether Ray is about to take one of our nodes; all ranks ask together. tell: a line to a person."""
        self.training, self.steps = config, steps
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = device()
        resources = config.resources
        self.checkpoints = Checkpoints(output, resources.checkpoint_keep, resources.checkpoint_keep_every, tell)
        self.notices, self.tell = Notices(self.rank, draining), tell
        self.rows: list[Row] = []
        self._window: list[dict[str, float]] = []
        self._tokens = self._seconds = 0.0

    @property
    def engine(self) -> Any:
        return self.step.engine

    @property
    @abstractmethod
    def measure_every(self) -> int:
        """Steps between measurements."""

    @abstractmethod
    def measure(self, step: int) -> tuple[Row, list[str]]:
        """The row of what is measured after `step` steps, and what is wrong with it. Collective.

        Raises TrainingError for what cannot be measured.
        """

    @abstractmethod
    def training_row(self, window: list[dict[str, float]]) -> Row:
        """A metrics row that stands for these steps; `tokens` is that of one of `groups_per_step` groups."""

    @abstractmethod
    def stops(self) -> bool:
        """Whether a problem ends the run."""

    def restored(self) -> None:  # noqa: B027 - most have nothing to do
        """`rows` came from a checkpoint: take from them what is kept besides."""

    def kept_besides(self) -> Collection[int]:
        """Steps whose checkpoints stay whatever the configuration says; a measurement that adds one saves it."""
        return ()

    def run(self, report: Report) -> None:
        """Train from the last checkpoint to the last step; `report` gets each metrics row (rank 0).

        Raises TrainingError (the last checkpoint is kept), CcpError where ranks' states differ, StoreError,
        PreemptedError after a SIGTERM.
        """
        step = self._restore()
        if step == 0:
            self._measure(0, report)
        try:
            self._train(step, report)
        except TrainingError:
            self.checkpoints.settle()  # raised by all ranks at the same step: a save before it is good
            raise
        self.checkpoints.settle()

    def _train(self, step: int, report: Report) -> None:
        started = time.monotonic()
        while step < self.steps:
            notice = self._advance(step)
            reach("train.stepped")
            step += 1
            last = step == self.steps
            if step % self.training.log_every == 0 or last:
                self._log(step, time.monotonic() - started, report)
                started = time.monotonic()
            if step % self.measure_every == 0 or last:
                with self.step.clock.timed(MEASURE):
                    self._measure(step, report)
            if self._due(step) or notice is not Notice.NONE:
                with self.step.clock.timed(CHECKPOINT):
                    self._save(step)
            if notice is not Notice.NONE:
                self.checkpoints.settle()  # now: the node may be gone before the next step would commit it
                said = f"{notice.value}; the checkpoint of step {step} is complete"
                if self.rank == 0:
                    self.tell(said)
                if notice is Notice.END and not last:
                    raise PreemptedError(said)

    def _save(self, step: int) -> None:
        self.checkpoints.settle()  # before what may fail: the save in flight is a good one
        self._check_weights(step)
        self.checkpoints.kept_besides = set(self.kept_besides())
        self.checkpoints.save(self.engine, step, self.step.state(), self._progress())

    def _due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved."""
        return step % self.training.resources.checkpoint_every == 0 or step == self.steps or step in self.kept_besides()

    def _advance(self, step: int) -> Notice:
        """One step; then what all ranks have agreed on with its metrics."""
        signals = {_UPLOADING: float(self.checkpoints.uploading)} | self.notices.signals()
        means = self.step.run(step, signals)
        agreed = {name: means.pop(name) for name in signals}
        self._window.append(means)
        if self.checkpoints.saving and agreed[_UPLOADING] == 0:
            with self.step.clock.timed(CHECKPOINT):
                self.checkpoints.settle()
        return self.notices.heed(agreed)

    def _progress(self) -> dict[str, Any]:
        return {"rows": self.rows, "window": self._window}

    def tokens_per_s(self) -> float:
        """Real tokens a second over all ranks, in the steps that this process ran."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def _log(self, step: int, seconds: float, report: Report) -> None:
        """Close a metrics row: means over the steps since the last. Speeds stay out, so that it can be repeated."""
        row: Row = {"step": step} | self.training_row(self._window)
        tokens = row["tokens"] * self.training.groups_per_step * len(self._window)
        self._tokens += tokens
        self._seconds += seconds
        live = self._live(tokens, seconds)
        self._window.clear()
        self.rows.append(row)
        if self.rank == 0:
            report(row | live)

    def _live(self, tokens: float, seconds: float) -> Row:
        """What a row says besides to whoever looks on: it is not the same in a run that repeats it."""
        lag = self.checkpoints.commit_lag_s
        return {
            "steps": self.steps,
            "tokens_per_s": tokens / seconds,
            "step_seconds": self.step.clock.take(len(self._window), seconds),
            "store_errors": total("ccp_ray_store_errors"),
            "store_retries": total("ccp_ray_store_retries"),
        } | ({"commit_lag_s": lag} if lag is not None else {})

    def _measure(self, step: int, report: Report) -> None:
        """Measure and judge."""
        row, problems = self.measure(step)
        self.rows.append({"step": step} | row | ({"problems": problems} if problems else {}))
        if self.rank == 0:
            report(self.rows[-1])
        if problems and self.stops():
            raise TrainingError(f"{'; '.join(problems)} (run again with monitor.action=warn to train on)")

    def last_training_row(self) -> Row | None:
        return next((row for row in reversed(self.rows) if "probe" not in row), None)

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
        self.restored()
        if self.rank == 0:
            count = f"{self.world} worker{'s' * (self.world > 1)}"
            self.tell(f"going on from the checkpoint of step {restored.step} with {count}")
        return restored.step
