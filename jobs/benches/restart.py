"""The restart of a half-finished job in the bench: seconds until it is known which of its pieces are left.

An output as `embed` leaves it when it is killed: the request, a plan of pieces, and ledger entries of every other one,
each with the files and counts that a real entry has. Timed is what a new run does with a plan: open the output, and
`outstanding`, which leaves the plan there and lists the ledger; and what `ccp-ray status` does. On local disk, and on
`rclone serve s3` on loopback.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.errors import CcpError
from ccp_ray.ledger import Entry, FileRecord, Ledger
from ccp_ray.pieces import outstanding
from ccp_ray.telemetry import FOLDER
from jobs.benches.figures import Figure, interleaved, median, report
from jobs.loopback import s3_bucket
from jobs.status import look

_STAGE = "pieces"
_THREADS = 16
_ROWS = 65_536


def restart_bench(pieces: int, rounds: int) -> dict[str, Any]:
    """A plan of `pieces`, half of them committed. Raises CcpError where the wrong pieces are found to be left."""
    names = [f"piece-{number:08d}" for number in range(pieces)]
    figures, measured = [], {}
    for kind in ("local disk", "S3"):
        with _root(kind) as root:
            _half_done(root, names)
            contenders = {
                "what is left": functools.partial(_seconds, root, names),
                "status": functools.partial(_status_seconds, root, len(names[::2])),
            }
            measured[kind] = interleaved(contenders, rounds, f"restart, {kind}")
        for what, at_most in (("what is left", 5.0), ("status", 3.0)):
            label = f"{pieces:,} pieces, half committed: {what}, {kind}"
            figures.append(Figure(label, median(measured[kind], what), "s", at_most=at_most))
    return report(figures, pieces=pieces, seconds=measured)


@contextlib.contextmanager
def _root(kind: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
        if kind == "S3":
            with s3_bucket("rclone", Path(folder)) as bucket:
                yield f"{bucket}/out"
        else:
            yield f"{folder}/out"


def _request() -> Request:
    inputs = [InputRef(role=role, uri=f"bench/{role}", fingerprint=role) for role in ("encoder", "texts")]
    return Request(kind="embeddings", config={"bench": True}, inputs=inputs)


def _half_done(root: str, names: list[str]) -> None:
    output = _opened(root)
    outstanding(output, _STAGE, dict.fromkeys(names, _ROWS))
    ledger = Ledger(output.store, f"_ledger/{_STAGE}")
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: ledger.commit(name, _entry(name)), names[::2]))
    word = {"time": time.time(), "step": len(names[::2]), "stage": _STAGE, "done": len(names[::2])}
    word |= {"planned": len(names), "rows_per_s": 1000.0}
    output.store.write(f"{FOLDER}/20300101T000000Z-0000/rows-00000.jsonl", json.dumps(word).encode())


def _entry(name: str) -> Entry:
    keys = {"vectors": f"vectors/{name}.npy", "table": f"rows/{name}.parquet"}
    files = [FileRecord(path=key, bytes=_ROWS, sha256="0" * 64) for key in keys.values()]
    counts = {"truncated": 0, "dimensions": 384, "precision": "fp32", "tokens": _ROWS, "padded": _ROWS, "seconds": 1.0}
    return Entry(rows=_ROWS, files=files, info=counts | keys | {"languages": {"en": _ROWS}})


def _seconds(root: str, names: list[str]) -> float:
    started = time.perf_counter()
    left = outstanding(_opened(root), _STAGE, dict.fromkeys(names, _ROWS))
    seconds = time.perf_counter() - started
    if sorted(left) != names[1::2]:
        raise CcpError(f"{root}: {len(left)} pieces are said to be left, expected {len(names) // 2}")
    return seconds


def _status_seconds(root: str, committed: int) -> float:
    started = time.perf_counter()
    (row,) = look(root, {})
    seconds = time.perf_counter() - started
    if row["committed"] != {_STAGE: committed}:
        raise CcpError(f"{root}: status says {row['committed']}, expected {committed:,} pieces")
    return seconds


def _opened(root: str) -> Output:
    output = open_output(root, _request())
    if isinstance(output, Artifact):
        raise CcpError(f"{root}: finished, though nothing was run")
    return output
