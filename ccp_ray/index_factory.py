"""Which FAISS factory an index is built with: the configured one, or one chosen by this rule.

With nothing said, exact: `Flat`, or `SQfp16` for dtype float16. With `memory` or `recall`, the first that fits the
budget (no budget: the first) of

    recall 1                                    Flat, SQfp16
    up to 100,000 rows, where a scan is fast    Flat, SQfp16, SQ8, PQm
    memory alone: as near to exact as it goes   Flat, SQfp16, IVFn,SQ8, IVFn,PQm
    recall from 0.97                            HNSW32, HNSW32,SQfp16, IVFn,Flat, IVFn,SQfp16, IVFn,SQ8, IVFn,PQm
    recall below                                IVFn,Flat, IVFn,SQfp16, IVFn,SQ8, IVFn,PQm

m goes down through the divisors of the dimensions, from half of them to a 32nd. n is about four times the square root
of a shard's rows (of all rows for a merged index), a power of two, at most one list for 39 rows to train on, which is
FAISS' own advice. dtype float16 leaves out what stores float32; a merged index leaves out HNSW, which cannot be
merged. What a choice takes is read from the empty index (`index_anatomy`): within 2 % of the files. What it finds is
measured afterwards (`index_recall`): a rule can know the memory but not the recall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ccp_ray.errors import UsageError
from ccp_ray.index_anatomy import EXACT, Anatomy, anatomy, empty_index, set_parameters
from ccp_ray.index_config import IndexConfig
from ccp_ray.sizes import megabytes

_SCANNED = 100_000  # rows of 384 dimensions take 10 ms a query
_FINE_RECALL = 0.97
_ROWS_A_LIST = 39
_WIDTH = {"float32": "Flat", "float16": "SQfp16"}


class Size(NamedTuple):
    """What is to be indexed. `trainable` rows are not held out."""

    rows: int
    dimensions: int
    shards: int
    trainable: int


class Choice(NamedTuple):
    """A factory and why. `bytes`: of all shards together, as foretold."""

    factory: str
    reason: str
    bytes: int
    anatomy: Anatomy

    @property
    def exact(self) -> bool:
        return self.factory in EXACT


def choose(size: Size, config: IndexConfig, earlier: Sequence[str] = ()) -> Choice:
    """The factory of an index. `earlier`: those of indexes to use again, in whose place no other is chosen if they fit.

    Raises UsageError for one that FAISS refuses, that does not fit the budget or the rows, that cannot be merged, and
    for search parameters that it does not have.
    """
    if config.factory is not None:
        choice = _candidate(config.factory, size, "the factory is the configured one")
        _refuse_over(config, choice)
    elif config.budget is None and config.recall is None:
        choice = _candidate(_WIDTH[config.dtype], size, "exact, as neither a factory, nor memory or recall is given")
    else:
        choice = _kept(size, config, earlier) or _first_that_fits(size, config)
    _check(choice, size, config)
    return choice


def candidates(size: Size, config: IndexConfig) -> list[str]:
    """Factory strings in the order in which they are tried."""
    exact = ["Flat", "SQfp16"]
    if config.recall == 1:
        names = exact
    elif size.rows <= _SCANNED:
        names = [*exact, "SQ8", *_product_quantisers(size)]
    else:
        lists = f"IVF{_lists(size, config)}"
        coarse = [f"{lists},SQ8", *(f"{lists},{code}" for code in _product_quantisers(size))]
        fine = [f"{lists},Flat", f"{lists},SQfp16", *coarse]
        graphs = [] if config.merge else ["HNSW32", "HNSW32,SQfp16"]
        near = exact + coarse if config.recall is None else fine
        names = graphs + near if config.recall is not None and config.recall >= _FINE_RECALL else near
    return [name for name in names if config.dtype == "float32" or not (name == "HNSW32" or name.endswith("Flat"))]


def train_rows(choice: Choice, size: Size, config: IndexConfig) -> int:
    """Rows to train on: as configured, else 64 a list and enough for codebooks; no more than may be trained on."""
    if choice.anatomy.trained:
        return 0
    return min(config.train_rows or max(64 * choice.anatomy.lists, 65_536), size.trainable)


def _candidate(factory: str, size: Size, reason: str) -> Choice:
    facts = anatomy(factory, size.dimensions)
    return Choice(factory, reason, facts.bytes(size.rows, size.shards), facts)


def _kept(size: Size, config: IndexConfig, earlier: Sequence[str]) -> Choice | None:
    """The rule may say another number of lists for more rows, and then nothing could be used again."""
    for factory in earlier:
        if factory and (config.recall != 1 or factory in EXACT):
            choice = _candidate(factory, size, "as the index that is used again, which still fits")
            if (config.budget is None or choice.bytes <= config.budget) and _fits(choice, size, config):
                return choice
    return None


def _fits(choice: Choice, size: Size, config: IndexConfig) -> bool:
    enough = train_rows(choice, size, config) >= choice.anatomy.least_train_rows
    return enough and (choice.anatomy.merges or not config.merge)


def _first_that_fits(size: Size, config: IndexConfig) -> Choice:
    over: list[Choice] = []
    for factory in candidates(size, config):
        choice = _candidate(factory, size, "")
        if not _fits(choice, size, config):
            continue
        if config.budget is None or choice.bytes <= config.budget:
            return choice._replace(reason=_reason(choice, over, size, config))
        over.append(choice)
    smallest = min(over, key=lambda choice: choice.bytes)
    raise UsageError(
        f"memory={config.memory}: {size.rows:,} rows of {size.dimensions} dimensions do not fit; the smallest index "
        f"that this configuration allows, {smallest.factory}, takes {megabytes(smallest.bytes)}"
    )


def _reason(choice: Choice, over: list[Choice], size: Size, config: IndexConfig) -> str:
    asked = [f"a recall of {config.recall}"] if config.recall is not None else []
    asked += [f"at most {config.memory}"] if config.memory is not None else []
    text = f"the first choice for {size.rows:,} rows x {size.dimensions} and {' and '.join(asked)}"
    if over:
        text = text.replace("first choice", "first that fits")
        first = ", ".join(f"{other.factory} would take {megabytes(other.bytes)}" for other in over[:3])
        text += f": {first}" + (f", and {len(over) - 3} more were too large" if len(over) > 3 else "")
    return f"{text}; it takes {megabytes(choice.bytes)}"


def _refuse_over(config: IndexConfig, choice: Choice) -> None:
    if config.budget is not None and choice.bytes > config.budget:
        raise UsageError(
            f"factory={choice.factory}: takes {megabytes(choice.bytes)}, more than memory={config.memory}; "
            "leave out one of them"
        )


def _check(choice: Choice, size: Size, config: IndexConfig) -> None:
    least, rows = choice.anatomy.least_train_rows, train_rows(choice, size, config)
    if rows < least:
        raise UsageError(
            f"factory={choice.factory}: trains on {least:,} rows at least, there are {rows:,} to train on; "
            "use fewer lists (IVF) or fewer bits (PQ), or leave the factory out"
        )
    if config.merge and not choice.anatomy.merges:
        raise UsageError(f"merge: FAISS cannot merge {choice.factory}; set merge=false, or take Flat, SQ, PQ or IVF")
    if config.search_parameters is not None:
        if choice.exact:
            raise UsageError(f"search_parameters={config.search_parameters}: an exact index has none; leave them out")
        set_parameters(empty_index(choice.factory, size.dimensions), config.search_parameters)


def _product_quantisers(size: Size) -> list[str]:
    most, least = size.dimensions // 2, max(size.dimensions // 32, 1)
    enough = size.trainable >= 256
    return [f"PQ{m}" for m in range(most, least - 1, -1) if enough and size.dimensions % m == 0]


def _lists(size: Size, config: IndexConfig) -> int:
    together = size.rows if config.merge else min(size.rows, config.shard_rows)
    most = max(min(4 * math.isqrt(together), size.trainable // _ROWS_A_LIST), 1)
    return 1 << (most.bit_length() - 1)
