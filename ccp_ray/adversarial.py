"""The adversarial start of a rotation: a map under which nobody can tell two languages' rows apart.

Conneau et al. 2017 (arXiv 1710.04087, section 2.1 and the released code, facebookresearch/MUSE). A discriminator (two
hidden layers, leaky ReLU, dropout on its input, smoothed labels) learns to tell mapped source rows from target rows;
the map W learns to mislead it. After each update of W

    W <- (1 + beta) W - beta (W W^T) W

draws it back towards the orthogonal maps. After every epoch the unsupervised criterion (`rotation.mutual_neighbours`)
is measured for the nearest orthogonal map; the best one over all epochs and runs is the result, for `rotation` to
refine, and to accept or reject.

Different from that code, because sentence spaces are calibrated by the language on a CPU:

- Several runs, from the identity first and then from random orthogonal maps of determinant -1 and +1 in turn. The game
  has local optima, whose criterion is far below the good one's; another beginning leaves them. The search ends with the
  first map that closes `enough` of the gap from the identity's criterion to that of the target's own two halves.
- Learning rates of 1 for both sides, one update each, no shrinking: the noise carries the map from optimum to optimum.
  At 16 dimensions with a discriminator's rate of 0.1 none of 24 runs came to the map in 2,000 updates; with 1 three of
  four did in 3,000. Fewer units and twice the rows make an update cheap.

Measured on two samples of one skewed mixture of 200 clusters (2,000 rows a side that fit, 2,000 that judge), one of
them turned by a random map of determinant -1. Found: at 16 dimensions 6 of 6 maps in the first run (2 to 6 s of one
core of an AMD EPYC), at 24 2 of 2 in the first (8 and 14 s), at 32 8 of 8 in 1 to 4 runs (6 to 33 s). The map then lies
0.06 to 0.45 from the true one (Frobenius norm / sqrt(D); 1.4 for unrelated ones); refined 0.03 at 16 and 0.12 at 32.
Where nothing is to be found, all runs are made: at the default 8 x 20 x 250 updates, of 2 ms at 32 dimensions and 9 ms
at 384, that is 80 s and 6 minutes a language. Not tried above 32 dimensions but for the time of an update.

Deterministic for one seed and machine, with one thread (matrices as small as these only lose time to more); torch's own
random state and threads are left as they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ccp_ray.calibration_config import AdversarialConfig
from ccp_ray.errors import DataError
from ccp_ray.rotation import FloatArray, Sides, mutual_neighbours

_JUDGES = 1000  # rows of each side that pick an epoch
_SLOPE = 0.2


class Start(NamedTuple):
    """The nearest orthogonal map [D, D] after the best epoch (rows: x @ map), its criterion, and the runs it took."""

    matrix_DD: FloatArray
    criterion: float
    runs: int


def adversarial_start(fitted: Sides, judged: Sides, config: AdversarialConfig, neighbours: int, seed: int) -> Start:
    """The best map of all runs; the first that closes `enough` of the gap ends the search.

    `fitted` and `judged` hold rows of unit length; the discriminator never sees `judged`, which only picks. Raises
    DataError where every run left the finite numbers.
    """
    few = Sides(judged.source_ND[:_JUDGES], judged.target_MD[:_JUDGES])
    enough = _enough(fitted, few, config.enough, neighbours)
    best = Start(np.eye(fitted.source_ND.shape[1], dtype=np.float32), -np.inf, 0)
    with _one_thread():
        for restart in range(config.restarts):
            found = _run(fitted, few, config, neighbours, seed, restart, enough)
            best = (found if found.criterion > best.criterion else best)._replace(runs=restart + 1)
            if best.criterion >= enough:
                break
    if best.criterion == -np.inf:
        raise DataError(
            f"the adversarial start diverged in all {config.restarts} runs; lower adversarial.discriminator_lr "
            "and adversarial.lr, or use start: identity"
        )
    return best


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _enough(fitted: Sides, judged: Sides, share: float, neighbours: int) -> float:
    """The criterion at which a map has closed `share` of the gap from the identity's to that of the target with itself.

    Two halves of one language lie as close as two languages can by a perfect map.
    """
    before = mutual_neighbours(*judged, neighbours).criterion
    itself = mutual_neighbours(fitted.target_MD[:_JUDGES], judged.target_MD, neighbours).criterion
    return before + share * max(itself - before, 0.0)


def _run(
    fitted: Sides,
    judged: Sides,
    config: AdversarialConfig,
    neighbours: int,
    seed: int,
    restart: int,
    enough: float,
) -> Start:
    """The best epoch of one run, which ends at the first that is good enough."""
    best, lr = Start(np.eye(fitted.source_ND.shape[1], dtype=np.float32), -np.inf, 1), config.lr
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + restart)
        game = _Game(fitted, first_map(fitted.source_ND.shape[1], restart, seed), config)
        for _ in range(config.epochs):
            for _ in range(config.steps):
                game.step(lr)
            if not game.finite():
                break  # it diverged: nothing more to come of this run, and another begins elsewhere
            found_DD = game.orthogonal()
            criterion = mutual_neighbours(judged.source_ND @ found_DD, judged.target_MD, neighbours).criterion
            if criterion > best.criterion:
                best = Start(found_DD, criterion, 1)
            if criterion >= enough:
                break
            lr *= config.lr_decay
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
        self.source_ND = torch.from_numpy(fitted.source_ND) * scale
        self.target_MD = torch.from_numpy(fitted.target_MD) * scale
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
        truth_B1 = torch.cat([torch.ones(config.batch, 1), torch.zeros(config.batch, 1)])
        self.labels_B1 = truth_B1 * (1 - 2 * config.smoothing) + config.smoothing
        self.config = config

    def step(self, lr: float) -> None:
        """Updates of the discriminator, then one of the map."""
        for _ in range(self.config.discriminator_steps):
            with torch.no_grad():
                rows_BD = self._rows()
            self.optimizer.zero_grad()
            torch.autograd.backward(binary_cross_entropy_with_logits(self.discriminator(rows_BD), self.labels_B1))
            self.optimizer.step()
        mislead = binary_cross_entropy_with_logits(self.discriminator(self._rows()), 1 - self.labels_B1)
        (gradient_DD,) = torch.autograd.grad(mislead, self.map_DD)
        with torch.no_grad():
            moved_DD = self.map_DD - lr * gradient_DD
            self.map_DD.copy_(towards_orthogonal(moved_DD, self.config.beta))

    def finite(self) -> bool:
        return bool(torch.isfinite(self.map_DD).all())

    def orthogonal(self) -> FloatArray:
        """The orthogonal map that is nearest to the map (Schönemann 1966)."""
        left_DD, _, right_DD = np.linalg.svd(self.map_DD.detach().numpy().astype(np.float64))
        return np.asarray(left_DD @ right_DD, dtype=np.float32)

    def _rows(self) -> torch.Tensor:
        """Random rows [2 batch, D]: `batch` of the source, mapped, then `batch` of the target."""
        source_B = torch.randint(len(self.source_ND), (self.config.batch,))
        target_B = torch.randint(len(self.target_MD), (self.config.batch,))
        return torch.cat([self.source_ND[source_B] @ self.map_DD, self.target_MD[target_B]])


def towards_orthogonal(map_DD: torch.Tensor, beta: float) -> torch.Tensor:
    """(1 + beta) W - beta (W W^T) W: draws every singular value in (0, sqrt(1 + 1 / beta)) towards one."""
    return (1 + beta) * map_DD - beta * (map_DD @ map_DD.T) @ map_DD
