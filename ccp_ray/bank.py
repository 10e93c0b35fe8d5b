"""Language-specific memory banks: negatives of the same language from earlier steps.

Each language has a ring of the last `size` keys with the hash and the step of each. Only filled slots count, and
only those at most `max_age` steps old: what matters is the encoder's drift since a key was made, not the ring's size.
Banks are replicated: every rank pushes the same keys of all ranks in group order after the step, so all agree.

Memory: languages x size x (4 D + 16) bytes a rank; 108 x 4,096 x 768 is 1.4 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

_EMPTY = -1


class Negatives(NamedTuple):
    """Keys of one language that may serve as negatives: [M, D], their hashes [M], their age in steps [M]."""

    keys_MD: torch.Tensor
    hashes_M: torch.Tensor
    ages_M: torch.Tensor


class LanguageBanks:
    """A ring of keys for each language."""

    def __init__(
        self, languages: Sequence[str], size: int, dimensions: int, max_age: int | None, device: torch.device
    ) -> None:
        self.codes = {lang: code for code, lang in enumerate(languages)}
        self.size, self.max_age = size, max_age
        count = len(self.codes)
        self.keys_LKD = torch.zeros(count, size, dimensions, device=device)
        self.hashes_LK = torch.zeros(count, size, dtype=torch.int64, device=device)
        self.steps_LK = torch.full((count, size), _EMPTY, dtype=torch.int64, device=device)
        self.cursors_L = torch.zeros(count, dtype=torch.int64)

    def negatives(self, lang: str, step: int) -> Negatives:
        """The language's keys that are filled and young enough, in ring order."""
        code = self.codes[lang]
        ages_K = step - self.steps_LK[code]
        usable_K = self.steps_LK[code] != _EMPTY
        if self.max_age is not None:
            usable_K &= ages_K <= self.max_age
        return Negatives(self.keys_LKD[code][usable_K], self.hashes_LK[code][usable_K], ages_K[usable_K])

    def push(self, lang: str, keys_PD: torch.Tensor, hashes_P: torch.Tensor, step: int) -> None:
        """Overwrite the oldest slots; of more keys than slots the last ones stay."""
        code, keys_PD, hashes_P = self.codes[lang], keys_PD[-self.size :], hashes_P[-self.size :]
        slots_P = (int(self.cursors_L[code]) + torch.arange(len(keys_PD), device=keys_PD.device)) % self.size
        self.keys_LKD[code, slots_P] = keys_PD.detach()
        self.hashes_LK[code, slots_P] = hashes_P
        self.steps_LK[code, slots_P] = step
        self.cursors_L[code] = (self.cursors_L[code] + len(keys_PD)) % self.size

    def fill(self) -> float:
        """Share of slots that hold a key, over all languages."""
        return float((self.steps_LK != _EMPTY).float().mean())

    def state(self) -> dict[str, torch.Tensor]:
        return {
            "bank.keys": self.keys_LKD,
            "bank.hashes": self.hashes_LK,
            "bank.steps": self.steps_LK,
            "bank.cursors": self.cursors_L,
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def checksum(self) -> str:
        """Equal on all ranks after every step."""
        digest = hashlib.sha256()
        for tensor in self.state().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
