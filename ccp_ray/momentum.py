"""A momentum key encoder: keys that change slowly (He et al. 2020, "Momentum Contrast", arXiv 1911.05722).

A copy of encoder and head whose weights follow the trained ones after each step, k <- m k + (1 - m) q. It encodes the
key side of every group, positives and bank keys alike, without gradient; the trained encoder gives the queries. So a
bank key of s steps ago was made by weights that moved by about s (1 - m) of the way since.

Its running statistics are of its own activations: the batch statistics of the key sides that it encoded. Statistics of
the queries would be those of weights about 1 / (1 - m) steps ahead, and keys would stand off the centre by that drift.

The averages are fp32 whatever the encoder's type: at m = 0.99 and above, an update is less than bf16's rounding. Every
rank holds the whole copy and computes the same update, so nothing is communicated but under ZeRO 3, where the weights
are gathered once a step. Memory: 4 bytes a parameter, and as many again as the training's type has if that is not fp32.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ccp_ray.head import Statistics
from ccp_ray.objective import CcpModel, KeySide, Sentences

_GATHERED_VALUES = 1 << 26  # under ZeRO 3, parameters in whole at one time: 256 MB of fp32


class KeyEncoder:
    """The copy. Make it from the fp32 model before DeepSpeed casts or partitions that, then `place` it."""

    def __init__(self, model: CcpModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.model = self.model.model.base_model  # the head of masked language modelling is not needed
        self.averages: dict[str, torch.Tensor] = {}

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move it to where and into what type the trained encoder computes; averages stay fp32."""
        self.model.to(device).train()  # dropout as on the queries' side
        self.averages = {name: value.detach() for name, value in _parameters(self.model).items()}
        self.model.to(dtype)  # in fp32 the averages are the weights themselves

    @torch.no_grad()
    def encode(self, keys: Sentences, running: Statistics | None) -> KeySide:
        """Unit key vectors [P, D] by the running statistics, and the batch statistics of this side."""
        return KeySide(*self.model.head(self.model.pooled(keys.chunks)[keys.order_N], running))

    @torch.no_grad()
    def follow(self, trained: CcpModel) -> None:
        """Move the averages towards the trained weights. Collective under ZeRO 3."""
        theirs = _parameters(trained)
        for names in _runs(theirs):
            with _whole([theirs[name] for name in names]):
                values = [theirs[name].detach().float() for name in names]
                torch._foreach_lerp_([self.averages[name] for name in names], values, 1 - self.decay)
        self._write()

    def state(self) -> dict[str, torch.Tensor]:
        """The averages, on the CPU: the same on every rank and at any world size and ZeRO stage."""
        return {f"momentum.{name}": value.cpu().clone() for name, value in self.averages.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, value in self.averages.items():
            value.copy_(state[f"momentum.{name}"])
        self._write()

    def _write(self) -> None:
        for name, parameter in _parameters(self.model).items():
            if parameter.dtype != torch.float32:
                parameter.data.copy_(self.averages[name])


def _parameters(model: CcpModel) -> dict[str, torch.nn.Parameter]:
    """Of encoder and head, by names that do not depend on whether a masked language model is around the encoder."""
    parts = {"encoder": model.model.base_model, "head": model.head}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}


def _runs(parameters: Mapping[str, Any]) -> Iterator[list[str]]:
    """Names in their order, in runs of about `_GATHERED_VALUES` values."""
    run: list[str] = []
    values = 0
    for name, parameter in parameters.items():
        run.append(name)
        values += getattr(parameter, "ds_numel", parameter.numel())
        if values >= _GATHERED_VALUES:
            yield run
            run, values = [], 0
    if run:
        yield run


def _whole(parameters: list[torch.nn.Parameter]) -> contextlib.AbstractContextManager[Any]:
    """ZeRO 3 keeps each rank's share of a parameter only: within this context they are whole."""
    if not hasattr(parameters[0], "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    gathered: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(parameters)
    return gathered
