"""Named fault points: places where a process may die, for tests that kill it exactly there.

    CCP_RAY_FAULTS="embed.written=/tmp/flag,embed.encoded=/tmp/other"

arms two points; `piece.worked@recall` is that point of one stage alone, where several stages share it. The first
process that reaches an armed point writes its id and its parent's into the point's file and waits there to be killed,
itself or the process that the test has in mind: its parent is the raylet, where it is a Ray worker. Every other process
passes. Where nothing is armed a point costs one look at the environment (0.3 µs).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "CCP_RAY_FAULTS"
POINTS = {
    "embed.read": "a piece's texts were read, not yet tokenised",
    "embed.tokenised": "the model is about to run",
    "embed.encoded": "vectors are in memory, nothing is written",
    "embed.written": "the files of a piece are in the store, its ledger entry is not",
    "embed.committed": "the ledger entry is in the store, the driver does not know",
    "embed.collected": "the driver knows one piece more",
    "piece.worked": "a task of any other stage wrote its files, its ledger entry is not there",
    "piece.committed": "its ledger entry is in the store, the driver does not know",
    "piece.collected": "the driver knows one piece of the stage more",
    "train.stepped": "a training step is done, and in no checkpoint",
    "checkpoint.written": "all ranks' files of a checkpoint are in the store, its ledger entry is not",
    "checkpoint.committed": "the ledger entry is in the store, checkpoints that are to go are still there",
    "artifact.unfinished": "all pieces are committed, the manifest is not written",
}


def reach(point: str, stage: str = "") -> None:
    """Wait here to be killed if this point is armed and no other process came first. Raises KeyError for no point.

    stage: whose piece it is, where stages share the point.
    """
    armed = os.environ.get(VARIABLE)
    if not armed:
        return
    POINTS[point]  # a misspelt point would never be tested
    for setting in armed.split(","):
        name, _, flag = setting.partition("=")
        if name in (point, f"{point}@{stage}") and _first(Path(flag)):
            while True:
                time.sleep(1)


def _first(flag: Path) -> bool:
    """Whether this process made the file; it appears with its content."""
    temporary = flag.with_name(f"{flag.name}.{os.getpid()}")
    temporary.write_text(f"{os.getpid()} {os.getppid()}")
    try:
        os.link(temporary, flag)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True
