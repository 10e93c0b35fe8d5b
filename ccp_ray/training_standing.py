"""How far a training is, from the live metrics that its driver leaves in the store (`telemetry`).

One listing of the attempts, one of the last attempt's files, and the last of them. The driver writes them ten seconds
apart at first and ten minutes apart in the end, so what is said here may be that old: `age_s` tells.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from ccp_ray.errors import DamagedError
from ccp_ray.storage import Store
from ccp_ray.telemetry import FOLDER


class TrainingStanding(NamedTuple):
    """The last metrics row. left_s: at its speed, from now. Times in seconds."""

    step: int
    steps: int
    loss: float
    accuracy: float
    tokens_per_s: float
    left_s: float
    age_s: float


def training_standing(store: Store, now: float | None = None) -> TrainingStanding | None:
    """Of the newest attempt that has trained; None where there is none. now: seconds since 1970.

    Raises DamagedError for a file that is not as it was written.
    """
    now = time.time() if now is None else now
    for attempt in sorted(store.folders(FOLDER), reverse=True):
        keys = [info.key for info in store.list(f"{FOLDER}/{attempt}/rows-")]
        for key in sorted(keys, reverse=True):
            row = _last_training_row(store, key)
            if row is not None:
                return _standing(row, now)
    return None


def _last_training_row(store: Store, key: str) -> dict[str, Any] | None:
    try:
        rows = [json.loads(line) for line in store.read(key).splitlines()]
        return next((row for row in reversed(rows) if "step_seconds" in row), None)
    except (ValueError, TypeError):
        raise DamagedError(f"{store.uri(key)}: damaged metrics; delete this object") from None


def _standing(row: dict[str, Any], now: float) -> TrainingStanding:
    age = max(0.0, now - row["time"])
    left = (row["steps"] - row["step"]) * sum(row["step_seconds"].values())
    numbers = row["step"], row["steps"], row["contrastive"], row["accuracy"], row["tokens_per_s"]
    return TrainingStanding(*numbers, max(0.0, left - age), age)
