"""Pretraining's loop: a step is `TrainingStep`; between steps `EncoderProbe` measures and `Monitor` judges."""

from __future__ import annotations

from collections.abc import Callable

from ccp_ray.contexts import ContextReader
from ccp_ray.corpus import Corpus
from ccp_ray.encoder import Encoder
from ccp_ray.errors import CcpError, TrainingError
from ccp_ray.monitor import Monitor
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.probe import EncoderProbe
from ccp_ray.progress import say
from ccp_ray.training_loop import Row, TrainingLoop
from ccp_ray.training_step import TrainingStep, metrics_row


class Pretraining(TrainingLoop):
    """The state of one worker."""

    step: TrainingStep

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        encoder: Encoder,
        output: str,
        draining: Callable[[], bool] | None = None,
        tell: Callable[[str], None] = say,
    ) -> None:
        """draining, tell: as of `TrainingLoop`."""
        super().__init__(config, config.steps, output, draining, tell)
        self.config, self.encoder = config, encoder
        languages = config.languages or corpus.languages
        reader = ContextReader(corpus, languages, (encoder.prefix, encoder.suffix), config.max_tokens)
        self.step = TrainingStep(config, reader, encoder, (self.rank, self.world), self.device)
        self.probe = EncoderProbe(config, reader, encoder, self.device)
        self.monitor = Monitor(config.monitor)

    @property
    def measure_every(self) -> int:
        return self.config.monitor.every

    def stops(self) -> bool:
        return self.config.monitor.action == "stop"

    def training_row(self, window: list[dict[str, float]]) -> Row:
        return dict(metrics_row(window))

    def measure(self, step: int) -> tuple[Row, list[str]]:
        try:
            probe = self.probe.measure(self.engine, self.step.running.current())
        except CcpError as error:
            raise TrainingError(f"{error} (at step {step}; the last checkpoint is kept)") from None
        problems = self.monitor.judge(step, probe, self.last_training_row())
        epochs = self.step.epochs(step)
        measured = {lang: value.model_dump() | {"epochs": epochs[lang]} for lang, value in probe.items()}
        return {"probe": measured}, problems

    def restored(self) -> None:
        self.monitor.remember(self.rows)
