"""Projection head with asymmetric batch normalisation; thrown away after pretraining.

Linear, BatchNorm, ReLU, Linear, L2-norm. If both sides of a pair were normalised with the same batch's statistics,
the pair could be matched through them (leakage). So in each group one side uses the batch's statistics and the
other the running mean and variance, and the roles swap from group to group (Wu et al., IJCAI 2022, section 3).
`leakage.py` measures what the other norms give away.

A random head asks nothing of the encoder's own space: the loss falls by what the head learns to read from it. For an
encoder that is good already, start the head as the identity: the loss then is that of the embeddings users get,
shifted and scaled by language as calibration does it (docs/method.md has what that brings).

The side with running statistics takes its values from them and its gradients as batch renormalisation does (see
`_renormalise`). Running statistics are fp32 and live outside the module: they change once a step, from all groups of
all ranks, so they are the same at any world size, and DeepSpeed's casts cannot touch them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from ccp_ray.pretrain_config import HeadStart, Norm, head_width

_EPSILON = 1e-5


class Statistics(NamedTuple):
    """Mean and biased variance of each feature, fp32 [D]."""

    mean_D: torch.Tensor
    variance_D: torch.Tensor


class RunningStatistics:
    """Exponential averages of the batch statistics, corrected for their start at zero as in Adam."""

    def __init__(self, dimensions: int, momentum: float, device: torch.device) -> None:
        self.momentum = momentum
        self.sums_2D = torch.zeros(2, dimensions, device=device)
        self.weight = torch.zeros((), device=device)
        self._started = False  # whether weight > 0, known without waiting for the device

    def current(self) -> Statistics | None:
        """The averages; None before the first update."""
        if not self._started:
            return None
        mean_D, variance_D = self.sums_2D / self.weight
        return Statistics(mean_D, variance_D)

    def update(self, groups_G2D: torch.Tensor) -> None:
        """Move towards the mean of all groups' statistics. groups_G2D: (mean, variance) of each group of the step."""
        self.sums_2D.lerp_(groups_G2D.mean(0), self.momentum)
        self.weight.lerp_(torch.ones_like(self.weight), self.momentum)
        self._started = True

    def state(self) -> dict[str, torch.Tensor]:
        return {"running.sums": self.sums_2D, "running.weight": self.weight}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.sums_2D.copy_(state["running.sums"])
        self.weight.copy_(state["running.weight"])
        self._started = bool(state["running.weight"] > 0)


def _renormalise(normal_ND: torch.Tensor, own: Statistics, fixed: Statistics) -> torch.Tensor:
    """Values normalised by `fixed`, gradients as if by the batch's own statistics (batch renormalisation, Ioffe 2017).

    With plain running statistics a shift of all keys survives normalisation, so the loss rewards it: fresh keys move
    away from the bank's. The running mean follows, the encoder shifts again, and sentences drown in a common offset
    (spread 0.55 to 0.06 within 400 steps of the quickstart, bank keys at most 4 steps old).
    """
    scale_D = torch.rsqrt(fixed.variance_D + _EPSILON)
    ratio_D = (torch.sqrt(own.variance_D + _EPSILON) * scale_D).detach()
    offset_D = ((own.mean_D - fixed.mean_D) * scale_D).detach()
    return normal_ND * ratio_D + offset_D


class ProjectionHead(nn.Module):
    """Encoder vectors [N, H] to unit projections [N, D].

    norm: `asymmetric` and `symmetric` are batch norm (who gives which side running statistics is the caller's choice),
    `layer` normalises each row over its features (Ba et al. 2016), `none` leaves it. Scale and shift follow in all of
    them, so the variants of an ablation have the same parameters; with `none` the shift is the first layer's bias.

    start: `random`, or `identity`, which needs D = H: the normalised vector and its negative pass the ReLU side by side
    in 2 H inner features, and their difference, the vector again, comes out.
    """

    def __init__(self, hidden: int, dimensions: int, norm: Norm = "asymmetric", start: HeadStart = "random") -> None:
        super().__init__()
        self.norm: Norm = norm
        self.width = head_width(dimensions, start)
        self.inner = nn.Linear(hidden, self.width, bias=False)  # the shift after the norm makes a bias idle
        self.scale = nn.Parameter(torch.ones(self.width))
        self.shift = nn.Parameter(torch.zeros(self.width))
        self.outer = nn.Linear(self.width, dimensions)
        if start == "identity":
            self._pass_on(hidden)

    @torch.no_grad()
    def _pass_on(self, hidden: int) -> None:
        both_IH = torch.cat([torch.eye(hidden), -torch.eye(hidden)])  # I inner features
        self.inner.weight.copy_(both_IH)
        self.outer.weight.copy_(both_IH.T)
        self.outer.bias.zero_()

    def forward(self, vectors_NH: torch.Tensor, fixed: Statistics | None) -> tuple[torch.Tensor, Statistics]:
        """Project with the statistics `fixed`, or with the batch's own (None); `layer` and `none` use neither.

        Returns unit vectors fp32 [N, D] and the batch's statistics, detached.
        """
        inner_ND = self.inner(vectors_NH).float()
        own = Statistics(inner_ND.mean(0), inner_ND.var(0, unbiased=False))
        scaled_ND = self._normal(inner_ND, own, fixed) * self.scale.float() + self.shift.float()
        out_ND = self.outer(torch.relu(scaled_ND).to(vectors_NH.dtype)).float()
        unit_ND = nn.functional.normalize(out_ND, dim=1)
        return unit_ND, Statistics(own.mean_D.detach(), own.variance_D.detach())

    def _normal(self, inner_ND: torch.Tensor, own: Statistics, fixed: Statistics | None) -> torch.Tensor:
        if self.norm == "none":
            return inner_ND
        if self.norm == "layer":
            return nn.functional.layer_norm(inner_ND, inner_ND.shape[1:], eps=_EPSILON)
        normal_ND = (inner_ND - own.mean_D) * torch.rsqrt(own.variance_D + _EPSILON)
        return normal_ND if fixed is None else _renormalise(normal_ND, own, fixed)
