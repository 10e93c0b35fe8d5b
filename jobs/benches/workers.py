"""Warm encoders in Ray actors, one thread each: the encoder loop of a job without the job around it.

An actor a core, as `embed` starts them on a CPU. They reserve nothing of Ray, so that a job in the same session finds
the cores free; they are idle while it runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ccp_ray.batching import Tokens


class Worker:
    """What runs in an actor."""

    def __init__(self, source: str, precision: Literal["fp32", "bf16"]) -> None:
        import torch

        from ccp_ray.encoder import Encoder

        torch.set_num_threads(1)
        self.encoder = Encoder.load(source, precision=precision).packed()

    def texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Tokenised and encoded: vectors [N, D] in the order of the texts."""
        return self.encoder.encode(texts)

    def tokens(self, flat_T: NDArray[np.int32], lengths_N: NDArray[np.int64], budget: int | None) -> int:
        """Encoded and left there: nothing but the number of rows goes back."""
        rows = np.split(flat_T.astype(np.int64), np.cumsum(lengths_N)[:-1])
        return len(self.encoder.encode_tokens(rows, budget))


class Workers:
    """`count` of them, in a Ray session that is there already. Pieces go to whoever is free."""

    def __init__(self, count: int, source: str, precision: Literal["fp32", "bf16"]) -> None:
        import ray
        from ray.util import ActorPool

        actor: Any = ray.remote(num_cpus=0)(Worker)
        self._actors = [actor.remote(source, precision) for _ in range(count)]
        self._pool = ActorPool(self._actors)
        ray.get([each.texts.remote(["warm"]) for each in self._actors])

    def end(self) -> None:
        """Stop them, which frees their memory."""
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def encode(self, pieces: Sequence[list[str]]) -> tuple[list[NDArray[np.float32]], float]:
        """Vectors of each piece, and the seconds until all of them were here."""
        started = time.perf_counter()
        vectors = list(self._pool.map(lambda actor, piece: actor.texts.remote(piece), pieces))
        return vectors, time.perf_counter() - started

    def encode_tokens(self, pieces: Sequence[tuple[Any, Any]], budget: int | None) -> float:
        """Seconds for pieces of tokens that lie in Ray's object store (`stored`)."""
        started = time.perf_counter()
        list(self._pool.map(lambda actor, piece: actor.tokens.remote(*piece, budget), pieces))
        return time.perf_counter() - started


def stored(rows: Sequence[Tokens]) -> tuple[Any, Any]:
    """Token rows as `Workers.encode_tokens` takes them."""
    import ray

    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return ray.put(np.concatenate(rows).astype(np.int32)), ray.put(lengths)


def shares(texts: Sequence[str], count: int) -> list[list[str]]:
    """The texts dealt out to `count` pieces of equal size, text i to piece i % count."""
    return [list(texts[number::count]) for number in range(min(count, len(texts)))]


def gathered(pieces: Sequence[NDArray[np.float32]], count: int) -> NDArray[np.float32]:
    """Vectors [count, D] in the order of the texts that `shares` dealt out."""
    out_ND = np.empty((count, pieces[0].shape[1]), dtype=np.float32)
    for number, piece_ND in enumerate(pieces):
        out_ND[number :: len(pieces)] = piece_ND
    return out_ND
