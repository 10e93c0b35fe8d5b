"""The fp32 weights that a DeepSpeed engine trained: what is exported, whatever precision the model computed in.

In bf16 and fp16 the model's parameters are the rounding of fp32 master weights: an exported encoder of the rounded ones
would lose the last updates, which are smaller than a bf16 step. Memory: one parameter at a time is gathered, so beyond
rank 0's 4 bytes a parameter on the host nothing is held whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist


@torch.no_grad()
def full_precision_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The module's parameters by name, fp32 on the CPU, on rank 0; an empty dictionary on the others.

    Collective: every rank calls it. A frozen parameter has no master copy; it comes as it is, widened.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    masters = _unsharded_masters(engine.optimizer) if engine.zero_optimization_stage() == 0 else {}
    first, found = dist.get_rank() == 0, {}
    for name, parameter in engine.module.named_parameters():
        master = masters.get(id(parameter))
        if master is None and parameter.requires_grad:
            master = safe_get_full_fp32_param(parameter)
        with deepspeed.zero.GatheredParameters([parameter], enabled=master is None and hasattr(parameter, "ds_id")):
            if first:
                found[name] = (parameter if master is None else master).detach().to("cpu", torch.float32, copy=True)
    return found


def set_weights(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Put whole weights into a module that DeepSpeed had cast or taken apart, to save it; it cannot be trained on."""
    for name, parameter in module.named_parameters():
        parameter.data = weights[name]


def _unsharded_masters(optimizer: Any) -> dict[int, torch.Tensor]:
    """fp32 copies by the parameter's id under ZeRO 0 in 16 bits, where DeepSpeed's own reader finds none."""
    pairs = zip(getattr(optimizer, "fp16_groups", []), getattr(optimizer, "fp32_groups", []), strict=True)
    return {id(low): full for lows, fulls in pairs for low, full in zip(lows, fulls, strict=True)}
