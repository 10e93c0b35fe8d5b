"""Orphans: what lies in an output and nothing needs, left by killed runs, lost races and failed uploads.

An object is needed if the manifest or an entry of the ledger names it, or if it is bookkeeping: `_job.json`,
`_run.json`, `_ledger/`, `_plan/`, `_telemetry/`. The ledger's files count in a finished artifact too (kept checkpoints
are in no manifest, and `--reuse` reads the entries), but for working files, and for an index, whose parts may have been
merged. In an unfinished output every folder that begins with `_` is needed, since stages leave there what only their
own entries' facts name (imported rows, a checkpoint being saved); once the artifact is finished such a folder is not.
What outputs below an output hold is theirs. Temporary objects and unfinished multipart uploads, which no listing shows,
are orphans always.

Age is what tells an orphan from a file that is about to be named: a job writes files first, then says so. Therefore an
unfinished output to which anything was written of late is left alone as a whole. Cost: a listing, and every entry of
the ledger once, 16 at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ccp_ray.artifact import JOB, MANIFEST, RUN, Artifact, find_artifact
from ccp_ray.errors import StoreError
from ccp_ray.ledger import Ledger
from ccp_ray.storage import Leftover, ObjectInfo, Store, open_store

_BOOKKEEPING = (MANIFEST, JOB, RUN, "_ledger/", "_plan/", "_telemetry/")
_CHECKPOINTS = "_checkpoints/"
_DELETIONS = 16


class Orphan(NamedTuple):
    """An object that nothing needs, and why it is one."""

    found: Leftover
    why: str


class Orphans(NamedTuple):
    """Those of one output. written: when anything at or below it was last written, seconds since 1970; 0: never."""

    uri: str
    finished: bool
    written: float
    orphans: list[Orphan]

    def older(self, moment: float) -> list[Orphan]:
        """Those that may go: from before a moment; none of an unfinished output that was written to since."""
        if not self.finished and self.written >= moment:
            return []
        return [orphan for orphan in self.orphans if orphan.found.modified < moment]


def find_orphans(uri: str, below: Sequence[str] = ()) -> Orphans:
    """The orphans of the output at a URI. below: URIs of other outputs within it.

    Raises DamagedError for an entry that cannot be read: what it names is not known then.
    """
    store, artifact = open_store(uri), find_artifact(uri)
    others = tuple(f"{other.removeprefix(f'{store.root}/')}/" for other in below)
    objects = list(store.list())  # before the entries are read: what they name may only grow after
    leftovers = [left for left in store.leftovers() if not left.key.startswith(others)]
    named = _named(store, artifact)
    orphans = [Orphan(left, "unfinished upload" if left.upload else "unfinished write") for left in leftovers]
    orphans += [
        Orphan(Leftover(*info), _why(info.key))
        for info in objects
        if not info.key.startswith(others) and info.key not in named and not _is_bookkeeping(info.key, artifact)
    ]
    return Orphans(store.root, artifact is not None, _written(objects), orphans)


def delete_orphans(found: Orphans, moment: float) -> list[Orphan]:
    """Delete those that may go, and return them. Raises StoreError where the output was written to since the search.

    A job of an unfinished output must not be started meanwhile: it could write an object again that is about to go.
    """
    store = open_store(found.uri)
    going = found.older(moment)
    if going and not found.finished and _written(list(store.list())) > found.written:
        raise StoreError(f"{found.uri}: a job writes to it now; nothing was deleted there, run again when it has ended")
    with ThreadPoolExecutor(_DELETIONS) as pool:
        for _ in pool.map(lambda orphan: store.discard(orphan.found), going):
            pass
    return going


def _named(store: Store, artifact: Artifact | None) -> set[str]:
    named = {record.path for entry in Ledger(store).entries().values() for record in entry.files}
    if artifact is None:
        return named
    # Of a finished output the ledger also names working files, and parts of an index that were merged.
    needed = {path for path in named if not path.startswith("_") or path.startswith(_CHECKPOINTS)}
    return {record.path for record in artifact.files} | (set() if artifact.kind == "index" else needed)


def _is_bookkeeping(key: str, artifact: Artifact | None) -> bool:
    return key.startswith(_BOOKKEEPING) or (artifact is None and key.startswith("_"))


def _why(key: str) -> str:
    return "working file of a finished job" if key.startswith("_") else "named by no entry and no manifest"


def _written(objects: Sequence[ObjectInfo]) -> float:
    return max((info.modified for info in objects), default=0.0)
