"""The collapse monitor: does the embedding space stay a space while the loss falls?

On a fixed probe of context pairs it measures, for each language, on unit vectors:
  std             mean standard deviation of a dimension x sqrt(D): 1 when spread over the sphere, 0 when collapsed
  effective_rank  exp of the entropy of the singular values' shares (Roy and Vetterli 2007)
  alignment       mean squared distance of the pairs; uniformity  log mean exp(-2 d^2) (Wang and Isola 2020)
and of the projection head
  leakage         nats by which batch statistics alone give pairs away (`leakage.py`)
From these and the training metrics it names collapse, leakage, the staleness shortcut and divergence; by
configuration (`monitor.action`) the run warns or stops, and a stopped one goes on when it is told to warn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ccp_ray.config import AS_RESOURCE, StrictModel
from ccp_ray.errors import CcpError

Vectors = NDArray[np.float32]


class SpaceMonitorConfig(StrictModel):
    """When a space, or the training loss, is called a failure."""

    action: Literal["warn", "stop"] = Field(
        default="stop", description="when a problem is named", json_schema_extra=AS_RESOURCE
    )
    collapsed_std: float = Field(default=0.05, ge=0, description="below this any space counts as collapsed")
    collapsed_share: float = Field(default=0.25, ge=0, description="or below this share of its best so far")
    diverged_loss: float = Field(default=1.5, gt=1, description="contrastive loss over that of guessing")


class MonitorConfig(SpaceMonitorConfig):
    """What is measured in pretraining, and when a measurement is called a failure."""

    every: int = Field(default=100, ge=1, description="steps between probes")
    pairs: int = Field(default=64, ge=4, description="context pairs a language in the probe")
    leak: float = Field(default=0.05, gt=0, description="leakage in nats; asymmetric, layer and none have 0")
    stale_gap: float = Field(default=0.25, gt=0, description="staleness gap that counts as the shortcut")


class Space(StrictModel):
    """Measurements of one language's encoder vectors."""

    std: float
    effective_rank: float
    alignment: float
    uniformity: float


class Probe(Space):
    """All measurements of one language."""

    leakage: float


def measure(centres_PD: Vectors, contexts_PD: Vectors) -> Space:
    """The space of one language's pairs; the vectors need not be normalised. Raises CcpError for NaN or infinity."""
    if not (np.isfinite(centres_PD).all() and np.isfinite(contexts_PD).all()):
        raise CcpError("NaN or infinity in the encoder's vectors of the probe; lower optimizer.lr")
    centre_PD, context_PD = _unit(centres_PD), _unit(contexts_PD)
    both_ND = np.concatenate([centre_PD, context_PD])
    spread = both_ND.std(axis=0).mean() * math.sqrt(both_ND.shape[1])
    singular = np.linalg.svd(both_ND - both_ND.mean(axis=0), compute_uv=False)
    share = singular / max(float(singular.sum()), 1e-12)
    entropy = -float(np.sum(share * np.log(np.maximum(share, 1e-12))))
    upper = np.triu_indices(len(both_ND), k=1)
    squared = np.maximum(2 - 2 * (both_ND @ both_ND.T)[upper], 0)
    return Space(
        std=float(spread),
        effective_rank=math.exp(entropy),
        alignment=float(((centre_PD - context_PD) ** 2).sum(axis=1).mean()),
        uniformity=float(np.log(np.exp(-2 * squared).mean())),
    )


class SpaceMonitor:
    """Judges each measurement of spaces against the run so far."""

    def __init__(self, limits: SpaceMonitorConfig) -> None:
        self.limits = limits
        self.best_std: dict[str, float] = {}

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the run so far from its metrics rows."""
        for row in rows:
            for lang, value in row.get("probe", {}).items():
                self.best_std[lang] = max(value["std"], self.best_std.get(lang, 0.0))

    def collapse(self, step: int, probe: Mapping[str, Space]) -> list[str]:
        """Languages whose spread is gone, in words."""
        found = []
        for lang, value in probe.items():
            best = self.best_std[lang] = max(value.std, self.best_std.get(lang, 0.0))
            # An untrained encoder may start below `collapsed_std`; only one that was above it can fall below it.
            floor = self.limits.collapsed_std if best > self.limits.collapsed_std else 0.0
            limit = max(floor, self.limits.collapsed_share * best)
            if step > 0 and value.std < limit:
                found.append(f"collapse of {lang} at step {step}: spread {value.std:.3f} is below {limit:.3f}")
        return found

    def divergence(self, step: int, training: Mapping[str, float] | None) -> list[str]:
        """`training`: the last metrics row, if any, with the loss and that of guessing."""
        if training is None or training["contrastive"] <= self.limits.diverged_loss * training["chance"]:
            return []
        loss, chance = training["contrastive"], training["chance"]
        return [f"divergence at step {step}: loss {loss:.2f} where guessing has {chance:.2f}"]


class Monitor(SpaceMonitor):
    """Also judges what only pretraining has: a projection head and banks."""

    def __init__(self, config: MonitorConfig) -> None:
        super().__init__(config)
        self.config = config

    def judge(self, step: int, probe: Mapping[str, Probe], training: Mapping[str, float] | None) -> list[str]:
        """Problems seen at this step, each named with its figures. `training` is the last metrics row, if any."""
        found = [*self.collapse(step, probe), *self._leakage(step, probe)]
        if training and training["staleness_gap"] > self.config.stale_gap:
            gap = training["staleness_gap"]
            found.append(f"staleness shortcut at step {step}: gap {gap:.2f} is above {self.config.stale_gap:.2f}")
        return found + self.divergence(step, training)

    def _leakage(self, step: int, probe: Mapping[str, Probe]) -> list[str]:
        if step == 0:  # no running statistics yet: the first step takes the batch's on both sides, whatever the norm
            return []
        return [
            f"leakage of {lang} at step {step}: batch statistics alone are worth {value.leakage:.2f} nats, "
            f"above {self.config.leak:.2f}"
            for lang, value in probe.items()
            if value.leakage > self.config.leak
        ]


def _unit(vectors_ND: Vectors) -> Vectors:
    wide_ND = vectors_ND.astype(np.float64)
    norms_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    return np.asarray(wide_ND / np.maximum(norms_N1, 1e-12))
