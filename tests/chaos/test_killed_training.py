"""Pretraining as a job, a worker killed and one told to end: the weights are those of an undisturbed run, bit for bit.

Its driver is killed with the pipeline's (`test_hosts`).
"""

from __future__ import annotations

import contextlib
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from ranks import wait_until
from small_recipe import configured

from ccp_ray.artifact import Artifact
from ccp_ray.pretrain_job import pretrain


@pytest.mark.timeout(600)
def test_workers_killed_and_told_to_end_are_replaced_and_the_weights_are_the_same_bits(
    trained: Artifact, small_corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "disturbed"
    with ThreadPoolExecutor(1) as pool:
        disturbed = pool.submit(disturb, output / "_ledger/checkpoints", worker_ids())
        artifact = pretrain(small_corpus.uri, str(output), configured(resources={"workers": 2, "checkpoint_every": 2}))
        disturbed.result()
    assert artifact.fingerprint == trained.fingerprint
    killed, told = capsys.readouterr().err.split("a worker was told to end (SIGTERM); the checkpoint of step ")
    assert "pretrain: going on from the checkpoint of step" in killed
    assert re.match(r"\d+ is complete", told)
    assert "pretrain: going on from the checkpoint of step" in told


def disturb(ledger: Path, known: set[int]) -> None:
    """SIGKILL to a worker, and when the ones in its place commit, SIGTERM to one of those."""
    seen: set[Path] = set()
    for number in (signal.SIGKILL, signal.SIGTERM):
        # Two more: one may still be committed while a worker dies.
        assert wait_until(lambda before=seen: len(set(ledger.glob("*.json")) - before) >= 2)
        there = worker_ids()
        assert there - known, "training ended before it was disturbed"
        victim, known = psutil.Process(max(there - known)), there
        victim.send_signal(number)
        victim.wait(180)
        seen = set(ledger.glob("*.json"))


def worker_ids() -> set[int]:
    """Ray Train's worker processes that are children of this session's Ray."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                found.add(process.pid)
    return found
