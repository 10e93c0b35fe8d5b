"""Which checkpoints of a training run there are: their names, and the ledger that lists them.

Apart from `checkpoints`, which writes and reads them with torch: a curve's plan needs the names alone.
"""

from __future__ import annotations

from ccp_ray.ledger import Ledger
from ccp_ray.storage import Store


def checkpoint_ledger(store: Store) -> Ledger:
    """Which checkpoints of a run are complete, by `checkpoint_name`."""
    return Ledger(store, "_ledger/checkpoints")


def checkpoint_name(step: int) -> str:
    """Of the checkpoint after `step` steps; names sort as steps do."""
    return f"step-{step:09d}"


def checkpoint_step(name: str) -> int:
    """The step of a `checkpoint_name`."""
    return int(name.removeprefix("step-"))
