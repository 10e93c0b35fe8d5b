"""An index whose driver is killed at every named point of every stage, one output through all; and two runs at once.

Whatever died, the same job ends with the manifest of an undisturbed run, and no piece is computed again once it is
committed: neither its entry nor its files are written a second time.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.context import SpawnProcess
from pathlib import Path

import index_process
import pytest
from index_inputs import embeddings
from ranks import wait_until

from ccp_ray.artifact import MANIFEST, open_artifact, verify_artifact
from ccp_ray.faults import POINTS
from ccp_ray.index import IndexConfig
from ccp_ray.ledger import Ledger
from ccp_ray.storage import open_store

SIZES = (300, 200, 250, 150)
CONFIG = IndexConfig.model_validate(
    {"factory": "IVF8,SQ8", "shard_rows": 500, "recall_queries": 40, "train_rows": 600, "resources": {"train_cpus": 1}}
)
MERGED = CONFIG.model_copy(update={"merge": True})
STAGES = {"sample": 2, "quantiser": 1, "index": 2, "recall": 2, "merge": 1}  # in their order, with their pieces
LAST = "artifact.unfinished"
Times = dict[str, tuple[int, ...]]


def kills() -> list[str]:
    """In the order in which a run comes by. A stage of one piece is over when its driver knows of it."""
    found = []
    for stage, pieces in STAGES.items():
        points = ("piece.worked", "piece.committed", "piece.collected")[: pieces + 1]
        found += [f"{point}@{stage}" for point in points]
    return [*found, LAST]


def test_every_point_of_a_piece_is_killed_at_here() -> None:
    reached = {point.partition("@")[0] for point in kills()}
    assert reached == {point for point in POINTS if point.startswith(("piece.", "artifact."))}


class Outputs:
    """Indexes of the same embeddings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = embeddings(folder / "embeddings", SIZES, dimensions=12).uri

    def start(self, name: str, config: IndexConfig, armed: str = "", meeting: object = None) -> SpawnProcess:
        return index_process.start(self.source, str(self.folder / name), config, armed, meeting)

    def finish(self, name: str, config: IndexConfig) -> bytes:
        """The manifest."""
        process = self.start(name, config)
        process.join(60)
        assert process.exitcode == 0
        return self.manifest(name)

    def manifest(self, name: str) -> bytes:
        assert verify_artifact(open_artifact(str(self.folder / name), "index")) == []
        return (self.folder / name / MANIFEST).read_bytes()

    def kill_at(self, name: str, config: IndexConfig, point: str) -> None:
        flag = self.folder / f"at-{point}"
        process = self.start(name, config, f"{point}={flag}")
        wait_until(lambda: flag.exists() or process.exitcode is not None, seconds=60)
        assert flag.exists(), f"{point}: never reached, exit code {process.exitcode}"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    def committed(self, name: str) -> Times:
        """When each committed piece's entry and files were written."""
        store, times = open_store(str(self.folder / name)), Times()
        for stage in STAGES:
            ledger = Ledger(store, f"_ledger/{stage}")
            for piece, entry in ledger.entries().items():
                keys = [f"{ledger.folder}/{piece}.json", *(record.path for record in entry.files)]
                times[f"{stage}/{piece}"] = tuple((self.folder / name / key).stat().st_mtime_ns for key in keys)
        return times


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(tmp_path_factory.mktemp("indexes"))


def test_killed_at_each_point_and_run_again(outputs: Outputs) -> None:
    undisturbed = outputs.finish("undisturbed", MERGED)
    stages = {path.name: len(list(path.iterdir())) for path in (outputs.folder / "undisturbed" / "_ledger").iterdir()}
    assert stages == STAGES, "a stage without kills"
    before = Times()
    for number, point in enumerate(kills()):
        outputs.kill_at("killed", MERGED, point)
        now = outputs.committed("killed")
        assert before.items() <= now.items(), point
        assert len(now) - len(before) == (not point.startswith(("piece.worked", LAST))), f"{number}: {point}"
        before = now
    assert len(before) == sum(STAGES.values())
    entries = {name: times[0] for name, times in before.items()}  # the files of what is merged go
    assert outputs.finish("killed", MERGED) == undisturbed
    for name, written in entries.items():
        assert (outputs.folder / "killed" / "_ledger" / f"{name}.json").stat().st_mtime_ns == written


def test_two_runs_of_one_output_at_once(outputs: Outputs) -> None:
    """Both have the same pieces to do in each stage, as they begin it together."""
    meeting = index_process.CONTEXT.Barrier(2)
    runs = [outputs.start("shared", CONFIG, meeting=meeting) for _ in range(2)]
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    assert outputs.manifest("shared") == outputs.finish("alone", CONFIG)
