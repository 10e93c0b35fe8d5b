"""DeepSpeed's engine: optimiser groups, learning rates, and how ranks on CPUs talk.

The learning rate is a function of the step, set before each step: no scheduler state to save.

The optimiser is torch's AdamW under every ZeRO stage and precision, with offload too. On CPUs its fused form steps 22 M
parameters in 0.018 s of one core, its default in 0.18 s; DeepSpeed's own CPU Adam would need a C++ compiler.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from ccp_ray.engine_settings import deepspeed_settings
from ccp_ray.errors import UsageError
from ccp_ray.hardware import native_bf16
from ccp_ray.pretrain_config import OptimizerConfig
from ccp_ray.training_config import AdamWConfig, DeepSpeedConfig, TrainingConfig


class Trainable(Protocol):
    """A module to train."""

    @property
    def encoders(self) -> Sequence[Any]:
        """Its transformers models, whose activations may be recomputed."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...


def start_engine(model: Trainable, config: TrainingConfig, world_size: int) -> Any:
    """The DeepSpeed engine around the model, on the process group that Ray Train set up.

    Raises UsageError for a GPU without bf16, and for an encoder that cannot recompute its activations.
    """
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _choose_communication(deepspeed.ops.__compatible_ops__, config.deepspeed)
    if config.deepspeed.precision == "bf16" and torch.cuda.is_available() and not native_bf16():
        name = torch.cuda.get_device_name()
        raise UsageError(f"deepspeed.precision=bf16 with resources.gpu=true: {name} has no bf16; use fp16 or fp32")
    if config.deepspeed.activation_checkpointing:
        for encoder in model.encoders:
            _checkpoint_activations(encoder)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer.weight_decay),
        lr=0.0,  # set before each step
        betas=config.optimizer.betas,
        eps=config.optimizer.eps,
        fused=True if config.deepspeed.offload_optimizer or not torch.cuda.is_available() else None,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_settings(config, world_size))
    # Under ZeRO 0 in 16 bits DeepSpeed makes an empty step here; Adam would take the first real one for its second.
    optimizer.state.clear()
    return engine


def _checkpoint_activations(encoder: Any) -> None:
    if not encoder.supports_gradient_checkpointing:
        raise UsageError(
            f"deepspeed.activation_checkpointing=true: {encoder.config.model_type!r} encoders (encoder.source) cannot "
            "recompute activations in transformers; set it to false and raise chunks instead"
        )
    with warnings.catch_warnings():
        # `activation_checkpointing_enable`, its new name, is not in the last transformers for Python 3.10.
        warnings.filterwarnings("ignore", "`gradient_checkpointing_enable` is deprecated", FutureWarning)
        encoder.gradient_checkpointing_enable()


def skipped(engine: Any) -> bool:
    """Whether the last step changed nothing: its gradients were not finite (under fp16 the loss scale then halves)."""
    return bool(getattr(engine.optimizer, "overflow", False))


def parameter_groups(model: Trainable, weight_decay: float) -> list[dict[str, Any]]:
    """Encoder and head apart (each has its learning rate); no decay on biases and norms."""
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if "pooler." in name:  # transformers adds it to some encoders; nothing here uses it
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            part = "head" if name.startswith("head.") else "encoder"
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "part": part}
        for (part, decays), parameters in groups.items()
    ]


def learning_rates(config: OptimizerConfig, steps: int, step: int) -> dict[str, float]:
    """Rates of the encoder and of the head at a step (0-based); each warms up from its own first step."""
    decay = _decay(config, steps, step)
    encoder, head = (_warmth(config.warmup_steps, step - start) for start in (config.head_only_steps, 0))
    return {"encoder": config.lr * encoder * decay, "head": (config.head_lr or config.lr) * head * decay}


def learning_rate(config: AdamWConfig, steps: int, step: int) -> float:
    """The rate at a step (0-based) of a model without a head of its own."""
    return config.lr * _warmth(config.warmup_steps, step) * _decay(config, steps, step)


def _decay(config: AdamWConfig, steps: int, step: int) -> float:
    """1 until the warm-up would end, then a straight line to 0 after the last step."""
    return min(1.0, max(0.0, (steps - step) / max(1, steps - config.warmup_steps)))


def _warmth(warmup_steps: int, step: int) -> float:
    """0 before the first step, then a straight line to 1."""
    if step < 0:
        return 0.0
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def set_learning_rates(engine: Any, rates: dict[str, float]) -> None:
    """Write the rates into the optimiser's groups."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rates[group["part"]]


def communication_note(config: DeepSpeedConfig) -> str:
    """How ranks on CPUs will talk, in words for the log."""
    if not config.shared_memory:
        return "gloo"
    if _has_compiler():
        return "gloo and DeepSpeed's shared-memory extension"
    return "gloo (DeepSpeed's shared-memory extension is not built: no C++ compiler)"


def _choose_communication(compatible: dict[str, bool], config: DeepSpeedConfig) -> None:
    # DeepSpeed compiles this extension at start whenever the entry is true, and fails where there is no compiler.
    if not (config.shared_memory and _has_compiler()):
        compatible["deepspeed_shm_comm"] = False


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))
