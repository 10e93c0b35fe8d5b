"""How a calibration is fitted: what is asked, and nothing that needs NumPy or torch to read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ccp_ray.config import StrictModel


class CalibrationResources(StrictModel):
    """Changing these continues the same work."""

    cpus_per_task: float = Field(default=1, gt=0)


class AdversarialConfig(StrictModel):
    """The adversarial start (`ccp_ray.adversarial`): at most `restarts` x `epochs` x `steps` updates of the map."""

    restarts: int = Field(default=8, ge=1, description="runs from other maps at most; the criterion picks the best")
    epochs: int = Field(default=20, ge=1, description="of `steps` each; the criterion is measured after every one")
    steps: int = Field(default=250, ge=1, description="updates of the map an epoch")
    enough: float = Field(
        default=0.9, gt=0, le=1, description="share of the gap to the pivot's own criterion that ends the search"
    )
    batch: int = Field(default=64, ge=1, description="rows of each side an update")
    width: int = Field(default=128, ge=1, description="units of the discriminator's two hidden layers")
    discriminator_steps: int = Field(default=1, ge=1, description="updates of the discriminator for one of the map")
    discriminator_lr: float = Field(default=1.0, gt=0, description="plain SGD, as for the map")
    lr: float = Field(default=1.0, gt=0, description="of the map")
    lr_decay: float = Field(default=0.9, gt=0, le=1, description="of `lr`, each epoch")
    beta: float = Field(default=0.01, gt=0, lt=0.5, description="W <- (1 + beta) W - beta (W W^T) W after an update")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of the discriminator's input")
    smoothing: float = Field(default=0.1, ge=0, lt=0.5, description="labels are this and one minus this")


class CalibrationConfig(StrictModel):
    """How a calibration is fitted."""

    pivot: str | None = Field(default=None, description="language that others are mapped to; None: en, else the first")
    minimum_rows: int = Field(default=50, ge=4, description="a language with fewer is an error")
    scale: Literal["pivot", "unit"] = Field(
        default="pivot",
        description="pivot: to the pivot's deviations, where the criterion gains; unit: to variance one, always",
    )
    scale_floor: float = Field(default=0.01, gt=0, lt=1, description="least deviation, as a share of the mean one")
    minimum_scale_gain: float = Field(
        default=0.03, ge=0, lt=1, description="share of neighbours' distance for scale to gain; it fits less"
    )
    rotate: bool = True
    start: Literal["identity", "adversarial", "best"] = Field(
        default="identity", description="of the rotation; best: the better of both by the criterion, after refinement"
    )
    adversarial: AdversarialConfig = AdversarialConfig()
    refine: int = Field(default=10, ge=1, description="iterations of neighbours and Procrustes at most")
    csls_k: int = Field(default=10, ge=1, description="neighbours that measure how much of a hub a row is")
    damping: float = Field(default=1.0, gt=0, description="weight of the rotation so far against the pairs")
    minimum_gain: float = Field(
        default=0.1, ge=0, lt=1, description="share of neighbours' distance for rotation to gain"
    )
    fit_rows: int = Field(default=5_000, ge=4, description="rows a language that fit and judge the steps, half each")
    seed: int = Field(default=0, ge=0)
    resources: CalibrationResources = CalibrationResources()
