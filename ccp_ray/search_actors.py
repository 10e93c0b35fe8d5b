"""The shards of an index in Ray actors, on as many machines as there are.

Shards are dealt over actors by rows, the largest first to whom has least. Each actor opens and hashes its shards alone,
and answers with its k best rows; `ccp_ray.ranking.best` orders what all answer, so hits are those of one process,
to the bit. Queries go out in blocks, two of them under way: one is merged while the next is searched.

An actor that dies is started again by Ray, on another machine if need be, opens its shards and is asked again.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact
from ccp_ray.errors import CcpError, UsageError, carry, raise_carried
from ccp_ray.names import shown_name
from ccp_ray.progress import say
from ccp_ray.ranking import best
from ccp_ray.session import cluster_cpus
from ccp_ray.shards import Shards
from ccp_ray.storage import storage_full

_BLOCK = 1024  # queries
_UNDER_WAY = 2  # blocks
_RESTARTS = 3  # of an actor, and of a question
_CPUS = 1  # of an actor
_NAMED = 4  # shards in an actor's name
_PATIENCE_S = 30  # until it is said what is waited for


class ShardActors:
    """Needs a Ray session. `count` actors, at most one a shard; 0: one a CPU of the cluster."""

    def __init__(self, artifact: Artifact, count: int = 0) -> None:
        import ray

        if not ray.is_initialized():
            raise UsageError("search by actors needs Ray; open the index within ccp_ray.session.ray_session()")
        if count > cluster_cpus():
            raise UsageError(f"{count} actors: the cluster has {cluster_cpus()} CPUs, and each takes {_CPUS}")
        hands = deal([shard["rows"] for shard in artifact.summary["shards"]], count or cluster_cpus())
        remote = ray.remote(
            num_cpus=_CPUS, max_restarts=_RESTARTS, max_task_retries=_RESTARTS, scheduling_strategy="SPREAD"
        )(_Searcher)
        manifest = artifact.model_dump_json()
        names = [f"{shown_name('search', artifact.uri)} {_numbers(hand)} {os.urandom(3).hex()}" for hand in hands]
        self._actors = [
            remote.options(name=name).remote(manifest, artifact.uri, hand, _CPUS)
            for name, hand in zip(names, hands, strict=True)
        ]
        try:
            opening = [actor.languages.remote() for actor in self._actors]
            _, waiting = ray.wait(opening, num_returns=len(opening), timeout=_PATIENCE_S)
            if waiting:
                free = int(ray.available_resources().get("CPU", 0))
                told = f"{len(waiting)} of {len(opening)} actors are opening shards or wait for a CPU"
                say(f"search: {told} ({free} free)")
            self.languages: set[str] = set().union(*self._gather(opening))
        except BaseException:
            self.close()
            raise

    def best(self, queries_QD: NDArray[np.float32], k: int, only: str | None = None) -> pa.Table:
        """As `Shards.best`."""
        merged = [best(self._gather(asked), k) for asked in self._asked(queries_QD, k, only)]
        return pa.concat_tables(merged)

    def close(self) -> None:
        """End the actors."""
        import ray

        while self._actors:
            with contextlib.suppress(ray.exceptions.RayError):  # dead already
                ray.kill(self._actors.pop())

    def _asked(self, queries_QD: NDArray[np.float32], k: int, only: str | None) -> Iterator[list[Any]]:
        """The answers to come of each block, while the next is asked already."""
        import ray

        under_way: deque[list[Any]] = deque()
        for first in range(0, max(1, len(queries_QD)), _BLOCK):
            block = ray.put(queries_QD[first : first + _BLOCK])
            under_way.append([actor.best.remote(block, first, k, only) for actor in self._actors])
            if len(under_way) == _UNDER_WAY:
                yield under_way.popleft()
        yield from under_way

    @staticmethod
    def _gather(asked: list[Any]) -> list[Any]:
        """What the actors answer. Raises the CcpError that one of them met."""
        import ray

        try:
            answers = ray.get(asked)
        except ray.exceptions.RayActorError as error:
            died = f"a search actor died more than {_RESTARTS} times"
            raise CcpError(f"{died}; has its machine the memory? {str(error).splitlines()[0]}") from error
        for failure, _ in answers:
            raise_carried(failure)
        return [answer for _, answer in answers]


def _numbers(hand: Sequence[int]) -> str:
    """`shard 3`, `shards 0, 4`, or how many they are."""
    if len(hand) > _NAMED:
        return f"{len(hand)} shards"
    return f"shard{'s' * (len(hand) > 1)} {', '.join(map(str, hand))}"


def deal(rows: Sequence[int], hands: int) -> list[list[int]]:
    """Numbers of the shards of each hand, rising; no hand is empty. The largest shard goes to whom has fewest rows."""
    dealt: list[list[int]] = [[] for _ in range(min(hands, len(rows)))]
    held = [0] * len(dealt)
    for number in sorted(range(len(rows)), key=lambda n: -rows[n]):
        hand = min(range(len(dealt)), key=lambda n: (held[n], len(dealt[n])))
        dealt[hand].append(number)
        held[hand] += rows[number]
    return [sorted(hand) for hand in dealt]


class _Searcher:
    """One actor. Answers are (error as `carry` writes it, result); Ray would start one that raises again and again."""

    def __init__(self, manifest: str, uri: str, numbers: list[int], threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        artifact = Artifact.model_validate_json(manifest).model_copy(update={"uri": uri})
        self._failure, self._shards = "", None
        try:
            self._shards = Shards(artifact, numbers, threads)
        except CcpError as error:
            self._failure = carry(error)
        except OSError as error:
            full = storage_full(error)
            if full is None:
                raise
            self._failure = carry(full)

    def pid(self) -> int:
        return os.getpid()

    def languages(self) -> tuple[str, set[str] | None]:
        return self._failure, self._shards.languages if self._shards else None

    def best(
        self, queries_QD: NDArray[np.float32], first: int, k: int, only: str | None
    ) -> tuple[str, pa.Table | None]:
        """The best rows of these shards; queries are numbered from `first`."""
        if self._shards is None:
            return self._failure, None
        try:
            found = self._shards.best(queries_QD, k, only)
        except CcpError as error:
            return carry(error), None
        numbers = pa.array(found.column("query").to_numpy() + first)
        return "", found.set_column(0, "query", numbers)
