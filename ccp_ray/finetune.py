"""Fine-tuning's loop: a step is `FinetuneStep`; between steps the dev questions are measured and the best step is kept.

Which step is best follows from the metrics rows, which travel in the checkpoints: a resumed run chooses what an
undisturbed one does. The best step's checkpoint stays besides the last ones, whatever `checkpoint_keep` says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from ccp_ray.encoder import Encoder
from ccp_ray.errors import CcpError, TrainingError
from ccp_ray.finetune_config import Best, FinetuneConfig
from ccp_ray.finetune_step import FinetuneStep
from ccp_ray.language_loss import joined_by_language, plain_names
from ccp_ray.monitor import SpaceMonitor
from ccp_ray.pair_data import PairData
from ccp_ray.progress import say
from ccp_ray.retrieval_dev import DevQuestions
from ccp_ray.training_loop import Row, TrainingLoop

_WATCHED = 256  # training questions that the monitor sees where there are no dev questions


class Finetuning(TrainingLoop):
    """The state of one worker."""

    step: FinetuneStep

    def __init__(
        self,
        config: FinetuneConfig,
        steps: int,
        data: tuple[PairData, PairData | None],
        encoders: Mapping[str, Encoder],
        output: str,
        draining: Callable[[], bool] | None = None,
        tell: Callable[[str], None] = say,
    ) -> None:
        """data: training and dev questions. encoders: by role. draining, tell: as of `TrainingLoop`."""
        super().__init__(config, steps, output, draining, tell)
        self.config, self.encoders = config, encoders
        train, dev = data
        self.step = FinetuneStep(config, steps, train, encoders, (self.rank, self.world), self.device)
        limit = config.dev.limit if dev else _WATCHED
        self.questions = DevQuestions(config, dev or train, encoders, limit, self.device)
        self.monitor = SpaceMonitor(config.monitor)
        self._has_dev = dev is not None

    @property
    def measure_every(self) -> int:
        return self.config.dev.every

    def stops(self) -> bool:
        return self.config.monitor.action == "stop"

    def training_row(self, window: list[dict[str, float]]) -> Row:
        row: Row = {name: sum(one[name] for one in window) / len(window) for name in plain_names(window[0])}
        return row | {"loss_by_language": joined_by_language(window)}

    def measure(self, step: int) -> tuple[Row, list[str]]:
        """Without dev questions the numbers of some training questions: for the monitor, not for a choice."""
        try:
            found = self.questions.measure(self.engine)
        except CcpError as error:
            raise TrainingError(f"{error} (at step {step}; the last checkpoint is kept)") from None
        problems = self.monitor.collapse(step, found.spaces) + self.monitor.divergence(step, self.last_training_row())
        probe = {lang: space.model_dump() | found.languages[lang] for lang, space in found.spaces.items()}
        row: Row = {"probe": probe, "epochs": self.step.sampler.epochs(step)}
        return row | ({"dev": {"loss": found.loss, "mrr": found.mrr}} if self._has_dev else {}), problems

    def restored(self) -> None:
        self.monitor.remember(self.rows)

    def kept_besides(self) -> Collection[int]:
        best = best_step(self.rows, self.config.best)
        return () if best is None else (best,)

    def load_best(self) -> int:
        """Put the weights of the best step into the engine. Collective. Returns the step."""
        best = best_step(self.rows, self.config.best)
        if best is None or best == self.steps:
            return self.steps
        self.checkpoints.restore_step(self.engine, best)
        return best


def best_step(rows: Sequence[Row], best: Best) -> int | None:
    """The first of the best steps so far by dev loss or dev MRR; never step 0. None where nothing was measured."""
    sign = {"loss": 1, "mrr": -1, "last": 0}[best]
    measured = [(sign * row["dev"][best], row["step"]) for row in rows if sign and row["step"] and "dev" in row]
    return min(measured)[1] if measured else None
