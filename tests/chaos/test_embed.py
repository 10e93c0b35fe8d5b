"""Embedding killed at every named fault point, its driver, its workers and its raylet; and two runs of one output.

Whatever died, the same command ends with the bytes of an undisturbed run, and no piece is computed again once it is
committed: neither its entry nor its vectors are written a second time. Where the driver lives on another host, and goes
on when a node's raylet dies, is `test_hosts`'s.

A run costs 24 s of a core, of which Ray's start takes ten. So one output goes through all kills, and several processes
wait at points of their own when the driver or the raylet dies: the store then holds a piece in each of these states.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from small_recipe import start

from ccp_ray.artifact import MANIFEST, open_artifact, verify_artifact
from ccp_ray.embed_stream import LEDGER
from ccp_ray.embeddings import Embeddings
from ccp_ray.faults import POINTS, VARIABLE
from ccp_ray.ledger import Ledger
from ccp_ray.storage import open_store

ROWS, PIECE_ROWS = 80, 2
IN_WORKERS = ("embed.read", "embed.tokenised", "embed.encoded", "embed.written", "embed.committed")
BEFORE, LAST = "piece.worked", "artifact.unfinished"
# Where processes wait when this one dies. Each point holds a process; with two actors of a kind the other one goes on.
KILLS = (
    ("raylet", (BEFORE,)),
    ("driver", (BEFORE,)),
    ("raylet", ("embed.read", "embed.encoded", "embed.written")),
    ("driver", ("embed.read", "embed.encoded", "embed.written")),
    ("raylet", ("embed.tokenised", "embed.committed")),
    ("driver", ("embed.tokenised", "embed.committed", "embed.collected")),
)
PATIENCE_S = 300.0


def test_every_fault_point_is_killed_at_here():
    elsewhere = {point for point in POINTS if point.startswith(("train.", "checkpoint."))}  # `test_resume`'s
    elsewhere |= {"piece.committed", "piece.collected"}  # `test_index_killed`'s
    for victim, alone in (("driver", {LAST}), ("raylet", {LAST, "embed.collected"})):  # the driver's own
        killed = {point for who, points in KILLS if who == victim for point in points}
        assert killed | alone == set(POINTS) - elsewhere


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder and texts, one of which cannot be used."""
    folder = tmp_path_factory.mktemp("embed")
    tiny_models.plain_folder(folder / "encoder")
    lines = [json.dumps({"id": f"d{n:03d}", "text": f"text {chr(97 + n % 26)}" * (1 + n % 4)}) for n in range(ROWS)]
    (folder / "texts").mkdir()
    (folder / "texts" / "t.jsonl").write_text("\n".join([*lines, '{"id": "bad", "text": 7}']) + "\n")
    return folder


class Runs:
    """`ccp-ray embed` as processes, all with the same output."""

    def __init__(self, place: Path, output: Path, log: Path) -> None:
        self.place, self.output, self.log = place, output, log

    def start(self, armed: Mapping[str, Path] | None = None, actors: int = 1) -> subprocess.Popen[bytes]:
        """armed: the flag of each point."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
        faults = ",".join(f"{point}={flag}" for point, flag in (armed or {}).items())
        arguments = ["embed", str(self.place / "encoder"), str(self.place / "texts"), "--output", str(self.output)]
        settings = [f"piece_rows={PIECE_ROWS}", "precision=fp32", "dtype=float32"]
        settings += [f"resources.workers={actors}", f"resources.tokenizers={actors}"]
        arguments += [part for setting in settings for part in ("--set", setting)]
        return start(*arguments, environment=clean | ({VARIABLE: faults} if faults else {}), log=self.log)

    def finish(self) -> None:
        assert self.start().wait(PATIENCE_S) == 0, self.log.read_text()[-3000:]

    def reached(self, flag: Path, process: subprocess.Popen[bytes]) -> tuple[int, int]:
        """(process at the point, its parent)."""
        give_up = time.monotonic() + PATIENCE_S
        while not flag.exists():
            assert process.poll() is None, f"ended before {flag.name}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < give_up, self.log.read_text()[-3000:]
            time.sleep(0.02)
        worker, parent = map(int, flag.read_text().split())
        return worker, parent

    def committed(self) -> dict[str, tuple[int, ...]]:
        """When each committed piece's entry and files were written."""
        ledger = Ledger(open_store(str(self.output)), LEDGER)
        return {name: self._times(name, ledger) for name in ledger.committed()}

    def _times(self, name: str, ledger: Ledger) -> tuple[int, ...]:
        paths = [f"{LEDGER}/{name}.json", *(record.path for record in ledger.read(name).files)]
        return tuple((self.output / path).stat().st_mtime_ns for path in paths)


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> bytes:
    """The manifest of a run that nobody disturbed; its output is moved aside, for a manifest names places."""
    runs = Runs(place, place / "out", place / "undisturbed.log")
    runs.finish()
    manifest = (place / "out" / MANIFEST).read_bytes()
    (place / "out").rename(place / "undisturbed")
    return manifest


@pytest.fixture
def runs(place: Path, undisturbed: bytes, tmp_path: Path) -> Iterator[Runs]:
    yield Runs(place, place / "out", tmp_path / "log")
    shutil.rmtree(place / "out", ignore_errors=True)


def check(runs: Runs, undisturbed: bytes) -> None:
    artifact = open_artifact(str(runs.output))
    assert (runs.output / MANIFEST).read_bytes() == undisturbed
    assert verify_artifact(artifact) == []
    ids = [row["id"] for _, table in Embeddings.open(artifact.uri) for row in table.to_pylist()]
    assert ids == [f"d{n:03d}" for n in range(ROWS)]
    assert artifact.summary["quarantined"] == 1


def flags(folder: Path, points: Sequence[str]) -> dict[str, Path]:
    folder.mkdir()
    return {point: folder / point for point in points}


@pytest.mark.timeout(900)
def test_killed_at_each_point_and_run_again(runs: Runs, undisturbed: bytes, tmp_path: Path) -> None:
    before: dict[str, tuple[int, ...]] = {}
    for number, (victim, points) in enumerate(KILLS):
        armed = flags(tmp_path / f"{number}", points)
        process = runs.start(armed, actors=min(len(points), 2))
        waiting = [runs.reached(flag, process) for flag in armed.values()]
        os.kill(process.pid if victim == "driver" else waiting[0][1], signal.SIGKILL)
        assert process.wait(PATIENCE_S) != 0
        before = kept(runs, before)
    before = workers_and_then_the_driver_killed(runs, before, tmp_path / "last")
    assert len(before) == ROWS // PIECE_ROWS
    runs.finish()
    assert kept(runs, before) == before
    check(runs, undisturbed)


def kept(runs: Runs, before: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """What is committed now; what was before is untouched."""
    now = runs.committed()
    assert before.items() <= now.items()
    return now


def workers_and_then_the_driver_killed(
    runs: Runs, before: dict[str, tuple[int, ...]], folder: Path
) -> dict[str, tuple[int, ...]]:
    """Workers are replaced within the run, which comes to its last point; nothing but the manifest is missing then."""
    assert len(before) < ROWS // PIECE_ROWS, "no piece is left for workers to die at"
    armed = flags(folder, (*IN_WORKERS, LAST))
    process = runs.start(armed)
    for point in IN_WORKERS:
        worker, _ = runs.reached(armed[point], process)
        os.kill(worker, signal.SIGKILL)
    runs.reached(armed[LAST], process)
    process.kill()
    process.wait()
    return kept(runs, before)


@pytest.mark.timeout(600)
def test_two_runs_of_one_output_share_the_work(runs: Runs, undisturbed: bytes, place: Path, tmp_path: Path) -> None:
    other = Runs(place, runs.output, tmp_path / "other.log")
    processes: list[subprocess.Popen[Any]] = [runs.start(), other.start()]
    codes = [process.wait(PATIENCE_S) for process in processes]
    assert codes == [0, 0], runs.log.read_text()[-2000:] + other.log.read_text()[-2000:]
    check(runs, undisturbed)
