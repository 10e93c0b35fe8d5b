"""How far stages of pieces are by their driver's last word: the rows of `piece_telemetry` in the store.

The ledger is the truth, but S3 lists it a thousand names a request: 5 s and more for 50,000 pieces, on some servers
half a millisecond a name and more the more there are. The driver's last word is one small object. It is ten seconds old
at the beginning of a run and at most ten minutes in the end, and does not have what other runs of the output commit.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

from ccp_ray.storage import Store
from ccp_ray.telemetry import damaged_rows, read_rows, row_files

_ATTEMPTS = 20  # newest ones that are looked at
_LEDGER = {"embed": "pieces"}  # the ledger's name of a stage, where it is another


class Note(NamedTuple):
    """when: seconds since 1970."""

    when: float
    done: int
    rows_per_s: float


def piece_notes(store: Store, stages: Collection[str]) -> dict[str, Note]:
    """The newest note of each of these stages (by their names in the ledger) that has one.

    Raises DamagedError for a file that is not as it was written.
    """
    found: dict[str, Note] = {}
    if not stages:
        return found
    for keys in islice(row_files(store), _ATTEMPTS):
        for stage, note in (_notes(store, keys[0]) if keys else {}).items():
            if stage in stages:
                found.setdefault(stage, note)
        if found.keys() == set(stages):
            break
    return found


def _notes(store: Store, key: str) -> dict[str, Note]:
    told = [row for row in read_rows(store, key) if "stage" in row]
    try:
        return {
            _LEDGER.get(row["stage"], row["stage"]): Note(row["time"], row["done"], row["rows_per_s"]) for row in told
        }
    except KeyError:
        raise damaged_rows(store, key) from None
