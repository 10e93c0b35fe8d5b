"""Language-specific memory banks: negatives of the same language from earlier steps.

Each language has a ring of the last `size` keys with the hash and the step of each. Only filled slots count, and
only those at most `max_age` steps old: what matters is the encoder's drift since a key was made, not the ring's size.
After each step every rank pushes the same keys of all ranks in group order, so all ranks agree.

Placement. `replicated`: each rank holds whole rings and talks to nobody. `sharded`: slot s of every ring is on rank
s mod W alone, so memory falls as 1/W, and each group's forward pass costs an exchange (`bank_term`). Both give the same
loss. Checkpoints hold rings in slot order, whatever the placement and W.

Memory: rings x size x (4 D + 16) bytes a rank, 2 D in bf16, over W if sharded; 108 x 4,096 x 768 is 1.4 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ccp_ray.collectives import gather_objects, gather_to_first
from ccp_ray.pretrain_config import BankConfig
from ccp_ray.sampling import random_generator

_EMPTY = -1
_PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Shard(NamedTuple):
    """The slots that one of `ranks` holds: those s with s % ranks == rank, at place s // ranks."""

    rank: int
    ranks: int


WHOLE = Shard(0, 1)


class Slots(NamedTuple):
    """This rank's slots of B rings: keys [B, K, D], hashes, ages in steps and whether the key counts [B, K]."""

    keys_BKD: torch.Tensor
    hashes_BK: torch.Tensor
    ages_BK: torch.Tensor
    usable_BK: torch.Tensor


class LanguageBanks:
    """A ring of keys for each language, or one for all of them (`bank.kind`)."""

    def __init__(
        self,
        config: BankConfig,
        languages: Sequence[str],
        dimensions: int,
        device: torch.device,
        seed: int = 0,
        shard: Shard = WHOLE,
    ) -> None:
        """shard: WHOLE where replicated. seed: of the random vectors that `bank.fill=random` starts from."""
        self.size, self.max_age, self.shard, self.device = config.size, config.max_age, shard, device
        rings = languages if config.kind == "language" else ["all languages"]
        self.codes = {lang: code if config.kind == "language" else 0 for code, lang in enumerate(languages)}
        shape = len(rings), -(-config.size // shard.ranks)  # a ring that does not divide leaves places unused
        self.keys_LKD = torch.zeros(*shape, dimensions, dtype=_PRECISION[config.dtype], device=device)
        self.hashes_LK = torch.zeros(shape, dtype=torch.int64, device=device)
        self.steps_LK = torch.full(shape, _EMPTY, dtype=torch.int64, device=device)
        self.pushed_L = torch.zeros(len(rings), dtype=torch.int64)
        if config.fill == "random" and config.size:
            self._fill_randomly(rings, seed)

    def slots(self, codes_B: torch.Tensor, step: int) -> Slots:
        """This rank's slots of the rings numbered `codes_B`, as the step sees them."""
        made_BK = self.steps_LK[codes_B]
        ages_BK = step - made_BK
        usable_BK = made_BK != _EMPTY
        if self.max_age is not None:
            usable_BK &= ages_BK <= self.max_age
        return Slots(self.keys_LKD[codes_B], self.hashes_LK[codes_B], ages_BK, usable_BK)

    def push(self, langs: Sequence[str], keys_GPD: torch.Tensor, hashes_GP: torch.Tensor, step: int) -> None:
        """Overwrite the oldest slots with the keys of groups `langs` [G], in their order.

        Of more keys than slots the last ones stay. All ranks push the same; each keeps its slots' share.
        """
        where, rows = (torch.from_numpy(each).to(self.device) for each in self._places(langs, keys_GPD.shape[1]))
        code_N, place_N = where
        self.keys_LKD[code_N, place_N] = keys_GPD.detach().flatten(0, 1)[rows].to(self.keys_LKD.dtype)
        self.hashes_LK[code_N, place_N] = hashes_GP.flatten()[rows]
        self.steps_LK[code_N, place_N] = step

    def fill(self) -> float:
        """Share of slots that hold a key, over all rings and ranks."""
        return float(self.pushed_L.clamp(max=self.size).double().mean()) / max(1, self.size)

    def state(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU, rings in slot order: the same for every placement and world size. Collective if sharded.

        Rank 0 gets all of it; the other ranks of sharded banks get nothing.
        """
        parts = {name: self._gathered(tensor) for name, tensor in self._sharded().items()}
        whole = {name: tensor for name, tensor in parts.items() if tensor is not None}
        return whole | {"bank.pushed": self.pushed_L.clone()} if whole else {}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Keep this rank's share of a whole `state()`."""
        for name, own_LK in self._sharded().items():
            part_LK = state[name][:, self.shard.rank :: self.shard.ranks]
            own_LK[:, : part_LK.shape[1]].copy_(part_LK)
        self.pushed_L.copy_(state["bank.pushed"])

    def checksum(self) -> str:
        """Equal on all ranks after every step. Collective if sharded: it covers what all ranks hold together."""
        digest = hashlib.sha256()
        for tensor in self._sharded().values():
            digest.update(_bytes(tensor).cpu().numpy().tobytes())
        own = digest.hexdigest()
        parts = [own] if self.shard.ranks == 1 else gather_objects(own)
        return hashlib.sha256(self.pushed_L.numpy().tobytes() + "".join(parts).encode()).hexdigest()

    def _sharded(self) -> dict[str, torch.Tensor]:
        return {"bank.keys": self.keys_LKD, "bank.hashes": self.hashes_LK, "bank.steps": self.steps_LK}

    def _places(self, langs: Sequence[str], pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where this rank writes, (ring, place) [2, N], and from which rows of the step's keys [N].

        On the CPU, where the counts are: the device never waits. A slot that the step fills twice is written once,
        for the result of writing it twice in one operation is undefined.
        """
        slots_GP = np.empty((len(langs), pairs), dtype=np.int64)
        codes_G = np.array([self.codes[lang] for lang in langs], dtype=np.int64)
        for code, slots_P in zip(codes_G, slots_GP, strict=True):
            slots_P[:] = (int(self.pushed_L[code]) + np.arange(pairs)) % self.size
            self.pushed_L[code] += pairs
        flat_N = (codes_G[:, None] * self.size + slots_GP).ravel()
        _, last_N = np.unique(flat_N[::-1], return_index=True)
        rows_N = len(flat_N) - 1 - last_N
        rows_N = rows_N[flat_N[rows_N] % self.size % self.shard.ranks == self.shard.rank]
        code_N, slot_N = np.divmod(flat_N[rows_N], self.size)
        return np.stack([code_N, slot_N // self.shard.ranks]), rows_N

    def _fill_randomly(self, rings: Sequence[str], seed: int) -> None:
        """Random unit vectors made at step 0, the same at any world size; hash 0 is no sentence's but by chance."""
        for code, ring in enumerate(rings):
            shape = self.size, self.keys_LKD.shape[2]
            keys_KD = torch.from_numpy(random_generator(seed, "bank", ring).standard_normal(shape, dtype=np.float32))
            own_KD = torch.nn.functional.normalize(keys_KD, dim=1)[self.shard.rank :: self.shard.ranks]
            self.keys_LKD[code, : len(own_KD)] = own_KD.to(self.keys_LKD)
            self.steps_LK[code, : len(own_KD)] = 0
        self.pushed_L += self.size

    def _gathered(self, own_LK: torch.Tensor) -> torch.Tensor | None:
        """All shards in slot order, ring by ring: the device holds one ring more, not all of them."""
        if self.shard.ranks == 1:
            return own_LK.detach().cpu().clone()
        whole_LK = torch.empty(len(own_LK), self.size, *own_LK.shape[2:], dtype=own_LK.dtype)
        for whole_K, own_K in zip(whole_LK, own_LK, strict=True):
            parts = gather_to_first(_bytes(own_K))
            for index, part in enumerate(parts or []):
                into_K = whole_K[index :: self.shard.ranks]
                into_K.copy_(part.view(own_K.dtype).view_as(own_K)[: len(into_K)])
        return whole_LK if self.shard.rank == 0 else None


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory [bytes]: any type travels and is hashed bit for bit."""
    return tensor.detach().contiguous().view(torch.uint8).flatten()
