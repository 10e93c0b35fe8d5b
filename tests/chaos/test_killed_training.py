"""Pretraining as a job, a worker killed or told to end: the weights are those of an undisturbed run, bit for bit.

Its driver is killed with the pipeline's (`test_pipeline`).
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from ranks import wait_until
from small_recipe import configured

from ccp_ray.artifact import Artifact
from ccp_ray.pretrain_job import pretrain

pytestmark = pytest.mark.timeout(600)


def train_and_disturb(
    small_corpus: Artifact, output: Path, disturb: Callable[[list[psutil.Process]], None]
) -> Artifact:
    """Pretrain; once a checkpoint is there, `disturb` gets the worker processes."""
    before = {process.pid for process in workers()}

    def wait_and_disturb() -> None:
        assert wait_until(lambda: any((output / "_ledger/checkpoints").glob("*.json")))
        disturb([process for process in workers() if process.pid not in before])

    with ThreadPoolExecutor(1) as pool:
        disturbed = pool.submit(wait_and_disturb)
        artifact = pretrain(small_corpus.uri, str(output), configured(resources={"workers": 2, "checkpoint_every": 4}))
        disturbed.result()
    return artifact


def workers() -> list[psutil.Process]:
    """Ray Train's worker processes that are children of this session's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                found.append(process)
    return found


def test_a_killed_worker_is_replaced_and_the_weights_are_the_same_bits(
    trained: Artifact, small_corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = train_and_disturb(small_corpus, tmp_path / "killed", lambda found: found[-1].send_signal(signal.SIGKILL))
    assert resumed.fingerprint == trained.fingerprint
    assert "pretrain: going on from the checkpoint of step" in capsys.readouterr().err


def test_a_worker_that_is_told_to_end_checkpoints_first(
    trained: Artifact, small_corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = train_and_disturb(small_corpus, tmp_path / "told", lambda found: found[-1].send_signal(signal.SIGTERM))
    assert resumed.fingerprint == trained.fingerprint
    said = capsys.readouterr().err
    assert re.search(r"a worker was told to end \(SIGTERM\); the checkpoint of step \d+ is complete", said)
    assert "pretrain: going on from the checkpoint of step" in said
