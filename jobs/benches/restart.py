"""The restart of a half-finished job in the bench: seconds until it is known which of its pieces are left.

An output as `embed` leaves it when it is killed: the request, a plan of pieces, and ledger entries of every other one,
each with the files and counts that a real entry has. Timed is what a new run does with a plan: open the output, and
`outstanding`, which leaves the plan there and lists the ledger. On local disk, and on `rclone serve s3` on loopback.
"""

from __future__ import annotations

import contextlib
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
from jobs.benches.figures import Figure, interleaved, median, report
from jobs.loopback import s3_bucket

STAGE = "pieces"
_THREADS = 16
_ROWS = 65_536


def restart_bench(pieces: int, rounds: int) -> dict[str, Any]:
    """A plan of `pieces`, half of them committed. Raises CcpError where the wrong pieces are found to be left."""
    names = [f"piece-{number:08d}" for number in range(pieces)]
    figures, measured = [], {}
    for kind in ("local disk", "S3"):
        with _root(kind) as root:
            half_done(root, names)
            measured[kind] = interleaved({kind: lambda root=root: _seconds(root, names)}, rounds, f"restart, {kind}")  # type: ignore[misc]
        what = f"{pieces:,} pieces, half committed: what is left, {kind}"
        figures.append(Figure(what, median(measured[kind], kind), "s", at_most=5.0))
    return report(figures, pieces=pieces, seconds=measured)


@contextlib.contextmanager
def _root(kind: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
        if kind == "S3":
            with s3_bucket("rclone", Path(folder)) as bucket:
                yield f"{bucket}/out"
        else:
            yield f"{folder}/out"


def bench_request() -> Request:
    """What the output was asked to be."""
    inputs = [InputRef(role=role, uri=f"bench/{role}", fingerprint=role) for role in ("encoder", "texts")]
    return Request(kind="embeddings", config={"bench": True}, inputs=inputs)


def half_done(root: str, names: list[str]) -> None:
    """An output whose every other piece is committed."""
    output = _opened(root)
    outstanding(output, STAGE, dict.fromkeys(names, _ROWS))
    ledger = Ledger(output.store, f"_ledger/{STAGE}")
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: ledger.commit(name, _entry(name)), names[::2]))


def _entry(name: str) -> Entry:
    keys = {"vectors": f"vectors/{name}.npy", "table": f"rows/{name}.parquet"}
    files = [FileRecord(path=key, bytes=_ROWS, sha256="0" * 64) for key in keys.values()]
    counts = {"truncated": 0, "dimensions": 384, "precision": "fp32", "tokens": _ROWS, "padded": _ROWS, "seconds": 1.0}
    return Entry(rows=_ROWS, files=files, info=counts | keys | {"languages": {"en": _ROWS}})


def _seconds(root: str, names: list[str]) -> float:
    started = time.perf_counter()
    left = outstanding(_opened(root), STAGE, dict.fromkeys(names, _ROWS))
    seconds = time.perf_counter() - started
    if sorted(left) != names[1::2]:
        raise CcpError(f"{root}: {len(left)} pieces are said to be left, expected {len(names) // 2}")
    return seconds


def _opened(root: str) -> Output:
    output = open_output(root, bench_request())
    if isinstance(output, Artifact):
        raise CcpError(f"{root}: finished, though nothing was run")
    return output
