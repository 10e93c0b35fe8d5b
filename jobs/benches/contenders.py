"""Who trains side by side in `make bench`: the full job, a bare PyTorch loop, and sentence-transformers' trainer.

All three have the same encoder, the same pairs in the same groups, the same number of groups a step, one thread and
fp32. `step` of each does one optimiser step and returns how long it took: seconds on the clock, and of this process's
CPU time, which a busy machine changes less.

* Full job: `TrainingStep`, as workers run it: drawing, reading, padding, DeepSpeed (ZeRO 1), banks, metrics.
* Bare loop: the same model and the same chunks of like length, ready in memory before the clock starts; in-batch
  InfoNCE, gradient clipping, fused AdamW. Nothing is measured, kept, or shared with anybody.
* sentence-transformers: `SentenceTransformerTrainer` with `MultipleNegativesRankingLoss` on the texts of the same
  pairs, a batch a group, fused AdamW, nothing logged or saved. It has no projection head, no bank and one direction.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ccp_ray.contexts import ContextReader
from ccp_ray.encoder import Encoder, load_trainable
from ccp_ray.objective import CcpModel, GroupBatch, collate
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler
from ccp_ray.training_step import StepResult, TrainingStep

_HOST = torch.device("cpu")


class Seconds(NamedTuple):
    """Of a step: on the clock, and of CPU time."""

    clock: float
    cpu: float


class Clock:
    """Time since it was made or last read."""

    def __init__(self) -> None:
        self.read()

    def read(self) -> Seconds:
        now = Seconds(time.perf_counter(), time.process_time())
        since = getattr(self, "_last", now)
        self._last = now
        return Seconds(now.clock - since.clock, now.cpu - since.cpu)


class FullJob:
    """`TrainingStep`; `shared` is the time that banks and statistics took to be gathered and pushed, by step.

    ranks: this one and how many there are.
    """

    def __init__(
        self, config: PretrainConfig, reader: ContextReader, encoder: Encoder, ranks: tuple[int, int] = (0, 1)
    ) -> None:
        self.training = _Timed(config, reader, encoder, ranks, _HOST)

    def step(self, number: int) -> Seconds:
        clock = Clock()
        self.training.run(number)
        return clock.read()

    @property
    def shared(self) -> list[Seconds]:
        return self.training.shared


class _Timed(TrainingStep):
    shared: list[Seconds]

    def _remember(self, step: int, result: StepResult) -> None:
        dist.barrier()  # waiting for a slower rank is no cost of the exchange
        clock = Clock()
        super()._remember(step, result)
        self.__dict__.setdefault("shared", []).append(clock.read())


class BareLoop:
    """What a person would write first, but with the batches ready."""

    def __init__(self, config: PretrainConfig, reader: ContextReader, encoder: Encoder) -> None:
        self.config, self.reader, self.pad_id = config, reader, encoder.pad_id
        self.model = CcpModel(
            encoder.model,
            encoder.pooling,
            config.projection,
            with_mlm=False,
            norm=config.norm,
            head_start=config.head_start,
        ).train()
        self.trained = [parameter for name, parameter in self.model.named_parameters() if "pooler." not in name]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.optimizer.lr, fused=True)

    def step(self, number: int) -> Seconds:
        batches = self._batches(number)
        clock = Clock()
        for batch in batches:
            centre_PH, context_PH = self.model.pooled(batch.chunks)[batch.order_N].chunk(2)
            (centre_PD, _), (context_PD, _) = self.model.project(centre_PH, context_PH, 0, None)
            logits_PP = centre_PD @ context_PD.T / self.config.temperature
            truth_P = torch.arange(len(logits_PP))
            loss = torch.nn.functional.cross_entropy(logits_PP, truth_P)
            loss = (loss + torch.nn.functional.cross_entropy(logits_PP.T, truth_P)) / 2
            (loss / len(batches)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return clock.read()

    def _batches(self, number: int) -> list[GroupBatch]:
        config = self.config
        drawn = groups(config, self.reader, number)
        return [collate(pairs, None, self.pad_id, config.chunks, _HOST) for pairs in drawn]


class SentenceTransformers:
    """Its trainer is started once for all steps and stopped between them: `step` lets it do one."""

    def __init__(self, config: PretrainConfig, reader: ContextReader, source: str, steps: int) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        model: Any = SentenceTransformer(source, device="cpu")
        model.max_seq_length = config.max_tokens
        drawn = [pairs for number in range(steps) for pairs in groups(config, reader, number)]
        texts = {
            side: [text for pairs in drawn for text in model.tokenizer.batch_decode(getattr(pairs, side), True)]
            for side in ("centres", "contexts")
        }
        self.model, self.config, self.texts = model, config, texts
        self.loss = MultipleNegativesRankingLoss(model, scale=1 / config.temperature)

    def steps(self, first: int, count: int) -> list[Seconds]:
        """Times of `count` steps from step `first` on, after one that is not counted: the trainer's start."""
        from datasets import Dataset
        from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

        each = self.config.pairs_per_group * self.config.groups_per_step
        rows = {side: texts[first * each : (first + count + 1) * each] for side, texts in self.texts.items()}
        timer = _step_timer()
        with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=count + 1,
                per_device_train_batch_size=self.config.pairs_per_group,
                gradient_accumulation_steps=self.config.groups_per_step,
                learning_rate=self.config.optimizer.lr,
                max_grad_norm=self.config.optimizer.clip,
                optim="adamw_torch_fused",
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            SentenceTransformerTrainer(
                model=self.model,
                args=arguments,
                train_dataset=Dataset.from_dict(rows),
                loss=self.loss,
                callbacks=[timer],
            ).train()
        return list(timer.times[1:])


def _step_timer() -> Any:
    from transformers import TrainerCallback

    class StepTimer(TrainerCallback):  # type: ignore[misc]
        """From the end of one step to the end of the next: drawing and tokenising its texts belong to it."""

        def __init__(self) -> None:
            self.clock = Clock()
            self.times: list[Seconds] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.clock.read()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(self.clock.read())

    return StepTimer()


def groups(config: PretrainConfig, reader: ContextReader, step: int) -> list[Any]:
    """The pairs of a step's groups, as the full job draws them."""
    sampler = Sampler(config.seed, reader.sizes, config.language_exponent, config.groups_per_step, "pairs")
    drawn = []
    for group in range(config.groups_per_step):
        lang, indices = sampler.draw(step, group, config.pairs_per_group)
        drawn.append(reader.pairs(lang, indices, config.radius, config.seed, step, group))
    return drawn


def encoder_of(config: PretrainConfig, tokenizer: Path) -> Callable[[], Encoder]:
    """A fresh copy of the encoder for each contender."""
    return lambda: load_trainable(config.encoder.source, config.encoder, tokenizer, False, config.seed)
