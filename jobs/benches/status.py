"""What `ccp-ray status` takes of an output of many pieces: half committed, and finished.

One output is that of the restart (`jobs.benches.restart`), with the word that a job's driver leaves of how far it is.
The other has the manifest alone, with two files a piece as `embed` has them. Both are made in the folder that `rclone
serve s3` serves, before it is asked for them: 50,000 PUTs would take minutes.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ccp_ray.artifact import Output, open_output
from ccp_ray.errors import CcpError
from ccp_ray.ledger import FileRecord
from ccp_ray.storage import open_store
from ccp_ray.telemetry import FOLDER
from jobs.benches.figures import Figure, interleaved, median, report
from jobs.benches.restart import STAGE, bench_request, half_done
from jobs.loopback import s3_bucket
from jobs.status import look

_AT_MOST = 3.0


def status_bench(pieces: int, rounds: int) -> dict[str, Any]:
    """Raises CcpError where status says something else than what is there."""
    names = [f"piece-{number:08d}" for number in range(pieces)]
    figures, measured = [], {}
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, s3_bucket("rclone", Path(folder)) as bucket:
        roots = {"local disk": f"{folder}/data/{bucket.removeprefix('s3://')}", "S3": bucket}
        _half_done(f"{roots['local disk']}/half committed", names)
        _finished(f"{roots['local disk']}/finished", names)
        for state in ("half committed", "finished"):
            contenders = {
                kind: functools.partial(_seconds, f"{root}/{state}", state, names) for kind, root in roots.items()
            }
            measured[state] = interleaved(contenders, rounds, f"status, {state}")
            for kind in roots:
                what = f"{pieces:,} pieces, {state}: status, {kind}"
                figures.append(Figure(what, median(measured[state], kind), "s", at_most=_AT_MOST))
    return report(figures, pieces=pieces, seconds=measured)


def _half_done(root: str, names: list[str]) -> None:
    half_done(root, names)
    word = {"time": time.time(), "step": len(names[::2]), "stage": STAGE, "done": len(names[::2])}
    word |= {"planned": len(names), "rows_per_s": 1000.0}
    store = open_store(root)
    store.write(f"{FOLDER}/20300101T000000Z-0000/rows-00000.jsonl", json.dumps(word).encode())


def _finished(root: str, names: list[str]) -> None:
    output = open_output(root, bench_request())
    assert isinstance(output, Output)
    paths = [path for name in names for path in (f"vectors/{name}.npy", f"rows/{name}.parquet")]
    output.finish([FileRecord(path=path, bytes=1, sha256="0" * 64) for path in paths], {"rows": len(names)})


def _seconds(root: str, state: str, names: list[str]) -> float:
    started = time.perf_counter()
    (row,) = look(root, {})
    seconds = time.perf_counter() - started
    found = row["summary"]["rows"] if state == "finished" else row["stages"][STAGE]["committed"]
    if found != len(names if state == "finished" else names[::2]):
        raise CcpError(f"{root}: status says {found} of what is {state}")
    return seconds
