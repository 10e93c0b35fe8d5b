"""Take over pieces that an earlier output has committed, so that a grown corpus embeds only what is new.

Pieces are named by what decides their vectors, so an earlier output's piece of the same name is the same piece, whether
that output was finished or not. Its files are hashed against the earlier ledger entry (about a second a gigabyte),
copied store to store and committed here. Encoding a gigabyte of vectors takes hours on a CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ccp_ray.artifact import JOB, Output
from ccp_ray.embed_stream import LEDGER
from ccp_ray.errors import UsageError
from ccp_ray.ledger import Entry, Ledger, copy_verified
from ccp_ray.outputs import read_request
from ccp_ray.pieces import run_pieces
from ccp_ray.storage import Store, absolute_uri, open_store


def reuse_pieces(target: Output, names: Collection[str], earlier: Sequence[str]) -> None:
    """Commit each of the pieces that one of the earlier outputs has, the first that has it.

    Raises UsageError for an earlier output that is none, DamagedError for a piece whose files were altered.
    """
    plan: dict[str, Any] = {}
    for uri in map(absolute_uri, earlier):
        for name in Ledger(_earlier(uri), LEDGER).committed() & set(names):
            plan.setdefault(name, {"from": uri, "to": target.uri})
    if plan:
        run_pieces(target, "reuse", dict(sorted(plan.items())), _copy)


def _earlier(uri: str) -> Store:
    store = open_store(uri)
    if store.size(JOB) is None:
        raise UsageError(f"--reuse {uri}: no embeddings there (no {JOB})")
    kind = read_request(uri).kind
    if kind != "embeddings":
        raise UsageError(f"--reuse {uri}: holds {kind}, expected embeddings")
    return store


def _copy(name: str, job: dict[str, str]) -> Entry:
    source, target = open_store(job["from"]), open_store(job["to"])
    entry = Ledger(source, LEDGER).read(name)
    for record in entry.files:
        copy_verified(source, target, record, "--reuse")
    Ledger(target, LEDGER).commit(name, entry)
    return Entry(rows=entry.rows)
