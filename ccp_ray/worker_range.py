"""The number of workers of a stage, as a configuration says it: `4`, `[2, 8]`, or null for what the cluster has."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def _ordered(workers: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    if isinstance(workers, tuple) and not 1 <= workers[0] <= workers[1]:
        raise ValueError(f"workers [min, max] needs 1 <= min <= max, found {list(workers)}")
    return workers


WorkerRange = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[int, int], Field(strict=False)] | None, AfterValidator(_ordered)
]
