"""Sentence spaces whose true map is known."""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm

from ccp_ray.calibration import unit
from ccp_ray.rotation import Sides


def turn(width: int, degrees: float, seed: int = 0) -> np.ndarray:
    """A rotation whose largest plane turns by `degrees`."""
    half = np.random.default_rng(seed).standard_normal((width, width))
    skew = half - half.T
    return np.asarray(expm(skew * np.deg2rad(degrees) / np.abs(np.linalg.eigvals(skew)).max()))


def sentences(rows: int, width: int, seed: int) -> np.ndarray:
    """Rows of one distribution: forty topics, the first dimensions wider than the last."""
    topics_KD = np.random.default_rng(99).standard_normal((40, width)) * np.linspace(1.6, 0.7, width)
    rng = np.random.default_rng(seed)
    return topics_KD[rng.integers(40, size=rows)] + 0.35 * rng.standard_normal((rows, width))


def distance(first_DD: np.ndarray, second_DD: np.ndarray) -> float:
    return float(np.linalg.norm(first_DD - second_DD) / np.sqrt(len(first_DD)))


def mirrored(width: int, seed: int) -> np.ndarray:
    """A random orthogonal map of determinant -1: no rotation of the identity leads to it."""
    map_DD = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]
    map_DD[:, 0] *= -np.sign(np.linalg.det(map_DD))
    return np.asarray(map_DD)


def skewed(rows: int, width: int, seed: int) -> np.ndarray:
    """Rows of one mixture of 200 clusters: no direction is like another, and no direction like its opposite."""
    rng = np.random.default_rng(99)
    spread_D = np.geomspace(2, 0.3, width)
    centres_KD = (rng.exponential(size=(200, width)) - 1) * spread_D
    weights_K = rng.dirichlet(np.ones(200))
    rng = np.random.default_rng(seed)
    return centres_KD[rng.choice(200, p=weights_K, size=rows)] + 0.15 * rng.standard_normal((rows, width)) * spread_D


def unpaired(rows: int, map_DD: np.ndarray) -> tuple[Sides, Sides]:
    """Two samples of `skewed`, centred, the source turned so that source @ map_DD lies as the target; in halves."""
    source_ND, target_ND = (skewed(rows, len(map_DD), seed) for seed in (1, 2))
    source_ND = unit(((source_ND - source_ND.mean(axis=0)) @ map_DD.T).astype(np.float32))
    target_ND = unit((target_ND - target_ND.mean(axis=0)).astype(np.float32))
    halves = zip(np.array_split(source_ND, 2), np.array_split(target_ND, 2), strict=True)
    fitted, judged = (Sides(*side) for side in halves)
    return fitted, judged
