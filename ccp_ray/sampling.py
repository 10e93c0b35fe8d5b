"""Which pairs a step trains on: a function of (seed, step) alone.

A global batch is a fixed number of *groups*, each a fixed number of pairs of one language. Nothing is drawn
in sequence, so the sampler has no state: resuming needs the step number, and step 10^9 costs what step 0 does.

Languages. Shares follow n_L^exponent (Conneau and Lample 2019; 0.3 in CCP's kin). Groups come in blocks;
in each block language L has a fixed quota of groups (its share, rounded by largest remainder, at least one),
in an order shuffled by (seed, block). So the ordinal of a group within its language has a closed form.

Sentences. Group number o of language L takes positions o*P to o*P+P-1 of an endless sequence of epochs, each
a permutation of L's sentences by a Feistel network keyed by (seed, L, epoch): no index array, no shuffle buffer.
Every sentence is a centre once an epoch.

Mixed groups (an ablation: the paper's negatives are of one language) draw every *pair* so, as if it were a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.errors import DataError

_ROUNDS = 8  # with 4, permutations of fewer than 20 sentences are measurably uneven
_MOST_GROUPS_A_BLOCK = 65_536


class Draw(NamedTuple):
    """Positions drawn for one group. indices [P]: sentence numbers within the language."""

    lang: str
    indices: NDArray[np.int64]


def random_generator(seed: int, *names: object) -> np.random.Generator:
    """A generator that is a function of its names alone."""
    text = "/".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def language_shares(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Sampling probabilities proportional to size^exponent, by language in sorted order."""
    weights = {lang: float(sizes[lang]) ** exponent for lang in sorted(sizes)}
    total = sum(weights.values())
    return {lang: weight / total for lang, weight in weights.items()}


class Sampler:
    """Draws of sentences by (seed, step, group). `stream` keeps independent uses apart (pairs, MLM, probe)."""

    def __init__(self, seed: int, sizes: Mapping[str, int], exponent: float, groups: int, stream: str) -> None:
        if not sizes or min(sizes.values()) < 1:
            raise DataError("sampling needs at least one sentence in every language")
        self.seed, self.stream, self.groups = seed, stream, groups
        self.sizes = {lang: int(sizes[lang]) for lang in sorted(sizes)}
        self.languages = list(self.sizes)
        self.quotas = _quotas(language_shares(sizes, exponent))
        self.block = int(self.quotas.sum())

    def language(self, step: int, group: int) -> str:
        """The language of one group."""
        block, place = divmod(step * self.groups + group, self.block)
        return self.languages[int(self._order(block)[place])]

    def draw(self, step: int, group: int, count: int) -> Draw:
        """The next `count` sentences of the group's language, in permuted order."""
        block, place = divmod(step * self.groups + group, self.block)
        order = self._order(block)
        code = int(order[place])
        ordinal = block * int(self.quotas[code]) + int(np.count_nonzero(order[:place] == code))
        lang = self.languages[code]
        return Draw(lang, self._positions(lang, ordinal * count, count))

    def draw_mixed(self, step: int, group: int, count: int) -> list[Draw]:
        """A group of `count` sentences of all languages, by language in sorted order.

        Places of a block are then pairs, not groups. A language's sentences come in the same permuted order.
        """
        block, place = divmod((step * self.groups + group) * count, self.block)
        before = self._order(block)[:place]
        ordinals_L = block * self.quotas + np.bincount(before, minlength=len(self.languages))
        blocks = range(block, block + (place + count - 1) // self.block + 1)
        codes = np.concatenate([self._order(number) for number in blocks])[place : place + count]
        counts_L = np.bincount(codes, minlength=len(self.languages))
        drawn = zip(self.languages, ordinals_L.tolist(), counts_L.tolist(), strict=True)
        return [Draw(lang, self._positions(lang, start, many)) for lang, start, many in drawn if many]

    def epochs(self, step: int, count: int, *, mixed: bool = False) -> dict[str, float]:
        """Sentences drawn before the step over those there are, by language; above 1 they are drawn again.

        mixed: by `draw_mixed`.
        """
        places, each = (step * self.groups * count, 1) if mixed else (step * self.groups, count)
        block, place = divmod(places, self.block)
        ordinals_L = block * self.quotas + np.bincount(self._order(block)[:place], minlength=len(self.languages))
        drawn = zip(self.sizes.items(), ordinals_L.tolist(), strict=True)
        return {lang: ordinal * each / size for (lang, size), ordinal in drawn}

    def _positions(self, lang: str, start: int, count: int) -> NDArray[np.int64]:
        size = self.sizes[lang]
        out = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            epoch, place = divmod(start + filled, size)
            take = min(count - filled, size - place)
            values = np.arange(place, place + take, dtype=np.uint64)
            out[filled : filled + take] = permute(values, size, _key(self.seed, self.stream, lang, epoch))
            filled += take
        return out

    def _order(self, block: int) -> NDArray[np.int64]:
        return _shuffled(self.seed, self.stream, block, tuple(int(q) for q in self.quotas))


def permute(values: NDArray[np.uint64], size: int, key: int) -> NDArray[np.int64]:
    """Images of `values` under a keyed permutation of 0..size-1.

    A balanced Feistel network on the next even number of bits; values that land outside are walked on until
    they are inside (cycle walking: Black and Rogaway 2002), fewer than four rounds of it on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    out = _feistel(values, half, key)
    outside = out >= size
    while outside.any():
        out[outside] = _feistel(out[outside], half, key)
        outside = out >= size
    return np.asarray(out, dtype=np.int64)


def _feistel(values: NDArray[np.uint64], half: int, key: int) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> shift, values & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (_mix(right + round_key) & mask)
    return (left << shift) | right


def _round_keys(key: int) -> NDArray[np.uint64]:
    keys = [(key + number) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF for number in range(_ROUNDS)]
    return np.array(keys, dtype=np.uint64)


_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele et al. 2014); wraps around by design."""
    x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
    return x ^ (x >> _SHIFTS[2])


def _key(*names: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest(), "little")


def _quotas(shares: Mapping[str, float]) -> NDArray[np.int64]:
    """Groups of each language in a block. The rarest gets about four, so rounding distorts shares little."""
    share_L = np.array(list(shares.values()))
    block = int(min(_MOST_GROUPS_A_BLOCK, max(64, np.ceil(4 / share_L.min()))))
    exact_L = share_L * block
    quota_L = np.floor(exact_L).astype(np.int64)
    for code in np.argsort(-(exact_L - quota_L), kind="stable")[: block - int(quota_L.sum())]:
        quota_L[code] += 1
    return np.asarray(np.maximum(quota_L, 1), dtype=np.int64)


@lru_cache(maxsize=64)
def _shuffled(seed: int, stream: str, block: int, quotas: tuple[int, ...]) -> NDArray[np.int64]:
    codes = np.repeat(np.arange(len(quotas)), quotas)
    return random_generator(seed, stream, "block", block).permutation(codes)
