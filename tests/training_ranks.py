"""Training steps in processes of their own: gloo, a model of a few kilobytes, no Ray.

`train` starts one process a rank; each runs the scenarios one after the other with the real `TrainingStep` and keeps
what it saw: metrics, gradients of every parameter, checksums and the state after the last step.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny_models
import torch
from numpy.typing import NDArray
from ranks import run_ranks

from ccp_ray.checkpoints import Checkpoints
from ccp_ray.config import build_config
from ccp_ray.contexts import Pairs
from ccp_ray.encoder import Encoder, new_model
from ccp_ray.engine_settings import BUCKET_ELEMENTS
from ccp_ray.master_weights import full_precision_weights
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import random_generator
from ccp_ray.training_step import TrainingStep

SIZES = {"de": 40, "en": 90, "fr": 60}
# AdamW divides by sqrt(v) + eps: with its usual eps it blows the rounding of a gradient near 0 up to a whole step.
OPTIMIZER = {"lr": 1e-3, "warmup_steps": 2, "eps": 1e-2}
BASE: dict[str, Any] = {
    "steps": 6,
    "groups_per_step": 4,
    "pairs_per_group": 6,
    "projection": 8,
    "mlm": {"sentences": 3},
    "optimizer": OPTIMIZER,
    "bank": {"size": 14, "warmup_steps": 1, "max_age": 3},
}


class Scenario(NamedTuple):
    """Some steps of a configuration, from `state` where given. restart: the step that starts from a checkpoint.

    gradients: whether to record them; DeepSpeed cannot read all of them in 16 bits. hidden: width of the encoder.
    """

    changes: dict[str, Any]
    steps: int = 4
    state: dict[str, torch.Tensor] | None = None
    restart: int | None = None
    gradients: bool = True
    hidden: int = 16


class Outcome(NamedTuple):
    """What one rank saw. gradients: by step, by parameter. checksums: after each step.

    weights: what the model computes with; exported: what is saved, on rank 0. live_bytes: of all tensors after a
    backward pass of the last step, at most; only counted for a wide encoder.
    """

    metrics: list[dict[str, float]]
    gradients: list[dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]
    exported: dict[str, torch.Tensor]
    checksums: list[str]
    state: dict[str, torch.Tensor]
    bank_bytes: int
    live_bytes: int = 0


class Letters:
    """Sentences of random letters; some have the same hash, as copies of a sentence do."""

    sizes = SIZES

    def pairs(self, lang: str, indices: NDArray[np.int64], *seed: object) -> Pairs:
        near = (indices + 1) % self.sizes[lang]
        hashes = (random_generator(0, lang, "hashes").integers(25, size=200)[each] for each in (indices, near))
        return Pairs(self.sentences(lang, indices), self.sentences(lang, near), *hashes)

    def sentences(self, lang: str, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [self._sentence(lang, int(index)) for index in indices]

    def _sentence(self, lang: str, index: int) -> NDArray[np.int64]:
        rng = random_generator(0, lang, index)
        return np.array([0, *rng.integers(4, 30, size=rng.integers(2, 12)), 2])


def config(**changes: Any) -> PretrainConfig:
    """The base configuration with changes; a dictionary changes single fields of a section."""
    merged = {**BASE}
    for name, value in changes.items():
        merged[name] = {**BASE.get(name, {}), **value} if isinstance(value, dict) else value
    return build_config(PretrainConfig, merged)


def training_step(settings: PretrainConfig, rank: int, world: int, hidden: int = 16) -> TrainingStep:
    shape = tiny_models.architecture(layers=1, dropout=0.1, hidden=hidden, intermediate=2 * hidden)
    model = new_model(shape, tiny_models.tokenizer(), 0)
    encoder = Encoder(model.train(), tiny_models.tokenizer(), "mean")
    reader: Any = Letters()
    return TrainingStep(settings, reader, encoder, (rank, world), torch.device("cpu"))


def allow_fp16() -> None:
    """Let DeepSpeed use it in this process: torch emulates it on CPUs, enough to see that it trains."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def train(world: int, scenarios: dict[str, Scenario], folder: Path, *, fp16: bool = False) -> dict[str, list[Outcome]]:
    """The outcomes on every rank of `world` processes, by scenario. fp16: let DeepSpeed use it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = run_ranks(world, _outcomes, scenarios, folder, fp16)
    return {name: [outcomes[name] for outcomes in found] for name in scenarios}


def _outcomes(rank: int, world: int, scenarios: dict[str, Scenario], folder: Path, fp16: bool) -> dict[str, Outcome]:
    if fp16:
        allow_fp16()
    return {name: _run(scenario, rank, world, folder / name) for name, scenario in scenarios.items()}


def _run(scenario: Scenario, rank: int, world: int, folder: Path) -> Outcome:
    settings = config(**scenario.changes)
    before = live_tensors() if scenario.hidden > 16 else {}
    step = training_step(settings, rank, world, scenario.hidden)
    if scenario.state:
        step.load(scenario.state)
    gradients: list[dict[str, torch.Tensor]] = []
    if scenario.gradients:
        record_gradients(step, gradients)
    metrics, checksums, live = [], [], [0]
    for number in range(scenario.steps):
        if scenario.hidden > 16 and number == scenario.steps - 1:
            record_live_bytes(step, before, live)
        if number == scenario.restart:
            step = _restarted(step, settings, (rank, world), folder)
            record_gradients(step, gradients)
        metrics.append(step.run(number))
        checksums.append(step.banks.checksum())
    whole = weights(step), full_precision_weights(step.engine)
    return Outcome(metrics, gradients, *whole, checksums, step.state(), held_bytes(step), max(live))


def _restarted(step: TrainingStep, settings: PretrainConfig, ranks: tuple[int, int], folder: Path) -> TrainingStep:
    """A new one that goes on from what checkpoints keep."""
    checkpoints = Checkpoints(str(folder), keep=1)
    checkpoints.save(step.engine, 1, step.state(), {})
    checkpoints.settle()
    fresh = training_step(settings, *ranks)
    restored = checkpoints.restore(fresh.engine)
    assert restored is not None
    fresh.load(restored.state)
    return fresh


def weights(step: TrainingStep) -> dict[str, torch.Tensor]:
    """The trained weights, whole."""
    import deepspeed

    named = dict(step.engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=step.config.deepspeed.zero_stage == 3):
        return {name: parameter.detach().clone() for name, parameter in named.items()}


def held_bytes(step: TrainingStep) -> int:
    """Of all that a rank holds for its banks, but the counters."""
    banks = step.banks
    return sum(t.numel() * t.element_size() for t in (banks.keys_LKD, banks.hashes_LK, banks.steps_LK))


def record_gradients(step: TrainingStep, seen: list[dict[str, torch.Tensor]]) -> None:
    """Append every parameter's gradient, over all ranks, before each optimiser step."""
    from deepspeed.utils import safe_get_full_grad

    take = step.engine.step

    def keep_and_take() -> None:
        if step.engine.is_gradient_accumulation_boundary():
            trained = {n: p for n, p in step.engine.module.named_parameters() if p.requires_grad}
            seen.append({name: safe_get_full_grad(p).detach().clone() for name, p in trained.items()})
        take()

    step.engine.step = keep_and_take


def live_tensors() -> dict[int, int]:
    """Bytes of every storage that Python can reach, by address, but of DeepSpeed's bucket, which is hardly in use."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    found += [each.grad for each in found if each.is_leaf and each.grad is not None]
    storages = [each.untyped_storage() for each in found]
    return {each.data_ptr(): each.nbytes() for each in storages if 0 < each.nbytes() < BUCKET_ELEMENTS}


def record_live_bytes(step: TrainingStep, before: dict[int, int], seen: list[int]) -> None:
    """Append what is alive after each backward pass; activations are gone by then."""
    backward = step.engine.backward

    def backward_and_count(loss: torch.Tensor) -> None:
        backward(loss)
        seen.append(sum(size for at, size in live_tensors().items() if at not in before))

    step.engine.backward = backward_and_count
