"""How far a training is, from the live metrics that its driver leaves in the store (`telemetry`).

One listing of the attempts, one of the last attempt's files, and the last of them. The driver writes them ten seconds
apart at first and ten minutes apart in the end, so what is said here may be that old: `age_s` tells.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ccp_ray.storage import Store
from ccp_ray.telemetry import read_rows, row_files


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
    for keys in row_files(store):
        for key in keys:
            trained = [row for row in read_rows(store, key) if "step_seconds" in row]
            if trained:
                return _standing(trained[-1], now)
    return None


def _standing(row: dict[str, Any], now: float) -> TrainingStanding:
    age = max(0.0, now - row["time"])
    left = (row["steps"] - row["step"]) * sum(row["step_seconds"].values())
    numbers = row["step"], row["steps"], row["contrastive"], row["accuracy"], row["tokens_per_s"]
    return TrainingStanding(*numbers, max(0.0, left - age), age)
