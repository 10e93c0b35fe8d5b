"""The adversarial start of a rotation: a map under which nobody can tell two languages' rows apart.

Conneau et al. 2017 (arXiv 1710.04087, section 2.1 and the released code, facebookresearch/MUSE). A discriminator (two
hidden layers, leaky ReLU, dropout on its input, smoothed labels) learns to tell mapped source rows from target rows;
the map W learns to mislead it. After each update of W

    W <- (1 + beta) W - beta (W W^T) W

draws it back towards the orthogonal maps. After every epoch the unsupervised criterion (`rotation.mutual_neighbours`)
is measured for the nearest orthogonal map; the best one over all epochs is the result; the learning rate decays, and
shrinks after an epoch in which the criterion fell.

Different from that code:

- Several runs. The game has local optima that the criterion tells from the good one; only another beginning
  leaves them. The first begins at the identity, the others at random orthogonal maps, of determinant -1 and +1 in
  turn: W cannot pass from one to the other, since that leads through a singular matrix.
- The map's learning rate is ten times the discriminator's, with one update each, twice the rows and fewer units, to
  be done in minutes on a CPU. A discriminator that runs ahead (three updates for one, or Adam) left the map in
  local optima: of six runs at 16 dimensions none came nearer to the true map than 0.95 of the 1.4 it began at.

Deterministic for one seed, number of threads and machine; torch's own random state is left as it was.

MEASURED
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ccp_ray.calibration_config import AdversarialConfig
from ccp_ray.rotation import FloatArray, Sides, mutual_neighbours

_JUDGES = 1000  # rows of each side that pick an epoch: the criterion is steady to about 0.005 at that many
_SLOPE = 0.2


class Candidate(NamedTuple):
    """The nearest orthogonal map after an epoch, and its criterion."""

    matrix_DD: FloatArray
    criterion: float


def adversarial_start(
    fitted: Sides, judged: Sides, config: AdversarialConfig, neighbours: int, seed: int
) -> FloatArray:
    """The best orthogonal map [D, D] (rows: x @ map) of all runs. Rows of unit length; `judged` only picks."""
    few = Sides(judged.source_ND[:_JUDGES], judged.target_MD[:_JUDGES])
    runs = (_run(fitted, few, config, neighbours, seed, restart) for restart in range(config.restarts))
    return max(runs, key=lambda run: run.criterion).matrix_DD


def _run(
    fitted: Sides, judged: Sides, config: AdversarialConfig, neighbours: int, seed: int, restart: int
) -> Candidate:
    """The best epoch of one run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + restart)
        game = _Game(fitted, first_map(fitted.source_ND.shape[1], restart, seed), config)
        best, last, lr = Candidate(game.orthogonal(), -np.inf), -np.inf, config.lr
        for _ in range(config.epochs):
            for _ in range(config.steps):
                game.step(lr)
            found_DD = game.orthogonal()
            criterion = mutual_neighbours(judged.source_ND @ found_DD, judged.target_MD, neighbours).criterion
            if criterion > best.criterion:
                best = Candidate(found_DD, criterion)
            lr *= config.lr_decay * (config.lr_shrink if criterion < last else 1.0)
            last = criterion
    return best


def first_map(dimensions: int, restart: int, seed: int) -> FloatArray:
    """The identity for the first run, then random orthogonal maps [D, D] of determinant -1, +1, -1, ..."""
    if restart == 0:
        return np.eye(dimensions, dtype=np.float32)
    normal_DD = np.random.default_rng([seed, restart]).standard_normal((dimensions, dimensions))
    map_DD = np.linalg.qr(normal_DD)[0]
    wanted = -1.0 if restart % 2 else 1.0
    if np.sign(np.linalg.det(map_DD)) != wanted:
        map_DD[:, 0] *= -1
    return np.asarray(map_DD, dtype=np.float32)


class _Game:
    """The map, the discriminator and the rows that both see."""

    def __init__(self, fitted: Sides, map_DD: FloatArray, config: AdversarialConfig) -> None:
        width, dimensions = config.width, len(map_DD)
        scale = float(np.sqrt(dimensions))  # rows of unit length would be all but zero to a fresh discriminator
        self.source_ND, self.target_MD = (torch.from_numpy(rows_ND) * scale for rows_ND in fitted)
        self.map_DD = torch.from_numpy(map_DD.copy()).requires_grad_()
        self.discriminator = torch.nn.Sequential(
            torch.nn.Dropout(config.dropout),
            torch.nn.Linear(dimensions, width),
            torch.nn.LeakyReLU(_SLOPE),
            torch.nn.Linear(width, width),
            torch.nn.LeakyReLU(_SLOPE),
            torch.nn.Linear(width, 1),
        )
        self.optimizer = torch.optim.SGD(self.discriminator.parameters(), lr=config.discriminator_lr)
        truth = torch.cat([torch.ones(config.batch, 1), torch.zeros(config.batch, 1)])
        self.labels = truth * (1 - 2 * config.smoothing) + config.smoothing
        self.config = config

    def step(self, lr: float) -> None:
        """Updates of the discriminator, then one of the map."""
        for _ in range(self.config.discriminator_steps):
            with torch.no_grad():
                rows_BD = self._rows()
            self.optimizer.zero_grad()
            binary_cross_entropy_with_logits(self.discriminator(rows_BD), self.labels).backward()
            self.optimizer.step()
        mislead = binary_cross_entropy_with_logits(self.discriminator(self._rows()), 1 - self.labels)
        (gradient_DD,) = torch.autograd.grad(mislead, self.map_DD)
        with torch.no_grad():
            moved_DD = self.map_DD - lr * gradient_DD
            self.map_DD.copy_(towards_orthogonal(moved_DD, self.config.beta))

    def orthogonal(self) -> FloatArray:
        """The orthogonal map that is nearest to the map (Schönemann 1966)."""
        left_DD, _, right_DD = np.linalg.svd(self.map_DD.detach().numpy().astype(np.float64))
        return np.asarray(left_DD @ right_DD, dtype=np.float32)

    def _rows(self) -> torch.Tensor:
        """Random rows: `batch` of the source, mapped, then `batch` of the target."""
        source_B = torch.randint(len(self.source_ND), (self.config.batch,))
        target_B = torch.randint(len(self.target_MD), (self.config.batch,))
        return torch.cat([self.source_ND[source_B] @ self.map_DD, self.target_MD[target_B]])


def towards_orthogonal(map_DD: torch.Tensor, beta: float) -> torch.Tensor:
    """(1 + beta) W - beta (W W^T) W: draws every singular value in (0, sqrt(1 + 1 / beta)) towards one."""
    return (1 + beta) * map_DD - beta * (map_DD @ map_DD.T) @ map_DD
