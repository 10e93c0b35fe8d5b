"""The store's part of the bench: MB/s and requests/s on local disk and on two S3 servers on loopback.

Large objects have 8 MiB and small ones 4 KiB (a ledger entry has about 1). Sixteen threads work at a time, as many as
the ledger reads with. A local write ends with fsync; what the servers do with theirs is their affair. Loopback has no
distance and both servers share the machine's cores: these figures bound what our side costs, they are no network's.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ccp_ray.errors import StoreError
from ccp_ray.progress import say
from ccp_ray.storage import Store, open_store
from jobs.benches.figures import BenchOptions, Figure, median, report
from jobs.loopback import s3_bucket

LARGE, SMALL = 8 << 20, 4 << 10
KINDS = ("local", "rclone", "moto")
_THREADS = 16
_SMALL_A_LARGE = 50


def store_bench(options: BenchOptions) -> dict[str, Any]:
    """options.objects: small objects a round, and one large one to fifty of them (two at least)."""
    figures: list[Figure] = []
    measured: dict[str, Any] = {}
    large = max(2, options.objects // _SMALL_A_LARGE)
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, _root(kind, Path(folder)) as root:
            rounds = []
            for number in range(options.rounds):
                say(f"bench: store, {kind}, round {number + 1} of {options.rounds}")
                rounds.append(_round(open_store(f"{root}/{number}"), options.objects, large))
        measured[kind] = rounds
        figures += _figures(kind, rounds, options.objects, large)
    sizes = {"large_bytes": LARGE, "small_bytes": SMALL, "threads": _THREADS, "small": options.objects, "large": large}
    return report(figures, sizes=sizes, seconds=measured)


@contextlib.contextmanager
def _root(kind: str, folder: Path) -> Iterator[str]:
    if kind == "local":
        yield str(folder / "store")
        return
    with s3_bucket("rclone" if kind == "rclone" else "moto", folder) as bucket:
        yield bucket


def _round(store: Store, small: int, large: int) -> dict[str, float]:
    """Seconds of each step, in an empty store."""
    rng = np.random.default_rng(0)
    big, little = rng.bytes(LARGE), rng.bytes(SMALL)
    vectors = [f"vectors/{number:06d}.npy" for number in range(large)]
    entries = [f"ledger/{number:06d}.json" for number in range(small)]
    store.conditional_writes()  # S3 probes this once a bucket and process
    return {
        "write": _timed(vectors, lambda key: store.write(key, big)),
        "read": _timed(vectors, lambda key: _expect(store.read(key) == big, store, key)),
        "commit": _timed(entries, lambda key: _expect(store.write_if_absent(key, little), store, key)),
        "refused": _timed(entries, lambda key: _expect(not store.write_if_absent(key, little), store, key)),
        "read small": _timed(entries, lambda key: _expect(store.read(key) == little, store, key)),
        "list": _listing(store, small),
    }


def _timed(keys: Sequence[str], work: Callable[[str], None]) -> float:
    with ThreadPoolExecutor(_THREADS) as pool:
        started = time.perf_counter()
        list(pool.map(work, keys))
        return time.perf_counter() - started


def _listing(store: Store, expected: int) -> float:
    started = time.perf_counter()
    found = sum(1 for _ in store.list("ledger/"))
    seconds = time.perf_counter() - started
    _expect(found == expected, store, "ledger/")
    return seconds


def _expect(right: bool, store: Store, key: str) -> None:
    """A fast store that answers wrong has no speed."""
    if not right:
        raise StoreError(f"{store.uri(key)}: the store did not answer as it should; its speed means nothing")


def _figures(kind: str, rounds: list[dict[str, float]], small: int, large: int) -> list[Figure]:
    megabytes = large * LARGE / 1e6
    figures = [
        Figure(f"{kind}: {step}, {LARGE >> 20} MiB objects", megabytes / median(rounds, step), "MB/s")
        for step in ("write", "read")
    ]
    labels = {
        "commit": "conditional write",
        "refused": "conditional write, key exists",
        "read small": f"read, {SMALL >> 10} KiB objects",
    }
    figures += [Figure(f"{kind}: {label}", small / median(rounds, step), "/s") for step, label in labels.items()]
    return [*figures, Figure(f"{kind}: list", small / median(rounds, "list"), "keys/s")]
