"""Hosts of a real cluster slowed, cut off and killed under the pipeline, and a store that is out.

Three hosts in network namespaces (`hosts`), every artifact on S3. Nothing a job needs lies on a host: what was killed
is started again, here or elsewhere, and goes on from the store. The driver is killed in each of eight stages, in the
training with its host, in the calibration with Ray's head, and besides

    embeddings   the raylet of a node is killed, and the node is started again
    calibration  Ray's head is killed, its node's workers live on; a new cluster is started for the same command
    evaluation   the store answers every request with 503 for 24 seconds
    encoder      hosts are slow; a worker is killed; a host is cut off for good and another comes late; at last all
                 hosts lose power and disks, the driver's first, and a new cluster goes on from the store alone

The outcome is that of a run on one machine, another S3 server and without a disturbance.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import host_faults
import pytest
from command_line import SmallRun
from host_run import HostRun, write_table
from hosts import PORT, RAY, Host, Lan, obstacle, started_lan
from pipeline_run import STAGES, fingerprints
from ranks import wait_until
from small_recipe import RECIPE


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Hosts a, b and c. Skips where they cannot be made; fails there in `.ci/run` as root."""
    if obstacle():
        if os.environ.get("CCP_RAY_HOSTS") == "required":
            pytest.fail(f"CCP_RAY_HOSTS=required: {obstacle()}")
        pytest.skip(obstacle())
    with started_lan("a", "b", "c") as started:
        yield started
    assert started.left() == []


@pytest.mark.timeout(1200)
def test_a_pipeline_on_hosts_that_fail_ends_as_an_undisturbed_one(
    undisturbed: dict[str, str], pipeline_recipe: Path, lan: Lan, tmp_path: Path
) -> None:
    lan.bucket("faults")
    hosted = HostRun(lan, pipeline_recipe, "faults", tmp_path / "log")
    hosted.new_cluster()
    hosted.start()
    for stage, disturb in DISTURBED.items():
        hosted.reach(stage)
        disturb(hosted)
    hosted.finish()
    assert fingerprints(str(hosted.run)) == undisturbed
    said = hosted.log.read_text()
    assert "has been out for" in said
    assert "answers again" in said
    assert lan.environment["AWS_SECRET_ACCESS_KEY"] not in said
    assert lan.environment["RAY_AUTH_TOKEN"] not in said
    keep(hosted.table)


def keep(rows: list[dict[str, Any]]) -> None:
    """In the table of `docs/faults.md`, where it is asked for."""
    if path := os.environ.get("CCP_RAY_FAULT_TABLE"):
        write_table(path, rows)


def finished(hosted: HostRun, stage: str) -> bool:
    return (hosted.run / stage / "artifact.json").exists()


def meets(hosted: HostRun, stage: str, *faults: str) -> None:
    for fault in faults:
        assert not finished(hosted, stage), f"{stage} ended before {fault}"
        hosted.disturb(fault, stage, host_faults.FAULTS[fault])


def kill_driver(stage: str) -> Callable[[HostRun], None]:
    def kill(hosted: HostRun) -> None:
        assert stage == "report" or not finished(hosted, stage)  # of which only the last file may be missing
        hosted.disturb(host_faults.DRIVER, stage, host_faults.driver_killed)

    return kill


def in_training(hosted: HostRun) -> None:
    """The hosts are slow, so the training is not over before all is done to it."""
    for name in "bc":
        hosted.lan[name].slow(host_faults.SLOW)
    meets(hosted, "encoder", host_faults.WORKER, host_faults.REPLACED, host_faults.LOST)


def in_embedding(hosted: HostRun) -> None:
    host_faults.driver_killed(hosted)
    hosted.wait_for_work()
    meets(hosted, "embeddings", host_faults.RAYLET)


def in_evaluation(hosted: HostRun) -> None:
    host_faults.driver_killed(hosted)
    hosted.wait_for_work()
    meets(hosted, "evaluation", host_faults.REFUSES)


def in_calibration(hosted: HostRun) -> None:
    meets(hosted, "calibration", host_faults.HEAD)


DISTURBED = {stage: kill_driver(stage) for stage in STAGES}
DISTURBED |= {"encoder": in_training, "embeddings": in_embedding}
DISTURBED |= {"calibration": in_calibration, "evaluation": in_evaluation}


@pytest.mark.timeout(300)
def test_a_host_that_cannot_reach_the_store_is_named_before_anything_is_begun(lan: Lan, tmp_path: Path) -> None:
    """Though the driver's host can. The same command runs once the way is there."""
    documents, log, objects = tmp_path / "documents.jsonl", tmp_path / "log", lan.bucket("way")
    sentences = ("This is one sentence.", "Here is another one.", "And one more of them.")
    rows = [{"id": str(n), "lang": "en", "text": f"{n} {' '.join(sentences)}"} for n in range(60)]
    documents.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = ("prepare", str(documents), "--output", "s3://way/corpus", "--set", "tokenizer.vocabulary=100")
    a, b = lan["a"], lan["b"]
    a.start_ray(1)
    b.start_ray(1, head=a)
    b.lose_way_to(lan["store"])
    assert a.verb(*command, head=a, log=log).wait(150) == 1
    _, line = log.read_text().splitlines()  # the first says that this store's URL is not https
    assert line.startswith("ccp-ray: error: 1 of 2 nodes cannot do this job, and nothing was started. node ")
    assert f" at {b.address}: cannot list s3://way/corpus" in line
    assert a.address not in line
    assert [path for path in objects.rglob("*") if path.is_file()] == []
    b.find_way_to(lan["store"])
    assert a.verb(*command, head=a, log=log).wait(150) == 0, log.read_text()[-3000:]


@pytest.mark.timeout(900)
def test_workers_come_and_go_with_their_hosts(small_run: SmallRun, lan: Lan, tmp_path: Path) -> None:
    """Three workers on two hosts. Ray says that one will be taken; it is killed, and two go on.

    A third host comes, and is used; it is cut off without a notice, and two go on. The run has no end.
    """
    config, log, output = tmp_path / "config.json", tmp_path / "log", tmp_path / "encoder"
    endless = {"groups_per_step": 6, "pairs_per_group": 8, "steps": 10**6}
    endless |= {"bank": {"size": 32, "warmup_steps": 2, "placement": "sharded"}}
    endless |= {"resources": {"workers": [1, 3], "checkpoint_every": 25, "resize_every_s": 2, "max_failures": 3}}
    config.write_text(json.dumps(RECIPE["pretrain"] | endless))
    a, b, c = lan["a"], lan["b"], lan["c"]
    a.start_ray(2)
    b.start_ray(1, head=a)
    arguments = (small_run.corpus, "--output", str(output), "--config", str(config))
    running = a.verb("pretrain", *arguments, head=a, log=log)
    said = Listener(log, running)
    ledger = output / "_ledger/checkpoints"
    said.commits_again(ledger)
    assert "pretrain: 1 to 3 workers" in log.read_text()
    drain(a, 1)
    noticed = said(r"Ray is about to take a node; the checkpoint of step (\d+) is complete")
    b.kill_all()
    shrunk = said(r"going on from the checkpoint of step (\d+) with 2 workers")
    c.start_ray(1, head=a)
    grown = said(r"going on from the checkpoint of step (\d+) with 3 workers")
    said.commits_again(ledger)
    began = time.monotonic()
    c.cut()
    left = said(r"going on from the checkpoint of step (\d+) with 2 workers")
    seconds = round(time.monotonic() - began, 1)
    said.commits_again(ledger)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) != 0
    assert 0 < noticed <= shrunk <= grown <= left
    steps, every = trained_steps(output), RECIPE["pretrain"]["log_every"]
    assert steps == list(range(every, steps[-1] + 1, every))
    assert steps[-1] > left
    keep([{"fault": "host cut off for good, fewer workers go on", "stage": "pretrain, elastic", "seconds": seconds}])


def trained_steps(output: Path) -> list[int]:
    """Steps with a metrics row, by the last checkpoint: each once, whatever happened between them."""
    entry = json.loads(max((output / "_ledger/checkpoints").glob("*.json")).read_text())
    (progress,) = (item["path"] for item in entry["files"] if item["path"].endswith("progress.json"))
    return [row["step"] for row in json.loads((output / progress).read_text())["run"]["rows"] if "loss" in row]


class Listener:
    """Waits for what a run does next; fails with its log where it ends or nothing comes."""

    def __init__(self, log: Path, running: subprocess.Popen[bytes]) -> None:
        self.log, self.running, self.heard = log, running, 0

    def __call__(self, pattern: str) -> int:
        """The number in the next such line."""
        find, text = re.compile(pattern), self.log.read_text
        wait_until(lambda: bool(find.search(text(), self.heard)) or self.running.poll() is not None, 180, 0.2)
        found = find.search(text(), self.heard)
        assert found, f"{pattern}:\n{text()[-4000:]}"
        self.heard = found.end()
        return int(found[1])

    def commits_again(self, ledger: Path) -> None:
        """Another checkpoint is committed; and what was said until then is old."""
        before = set(ledger.glob("*.json"))
        wait_until(lambda: bool(set(ledger.glob("*.json")) - before) or self.running.poll() is not None, 180, 0.2)
        assert self.running.poll() is None, self.log.read_text()[-4000:]
        self.heard = len(self.log.read_text())


def drain(head: Host, cpus: int) -> None:
    """Tell Ray what a cloud would: the node with so many CPUs will be taken in two minutes."""
    ask = (
        f"import ray; ray.init('{head.address}:{PORT}', logging_level='ERROR', log_to_driver=False)\n"
        f"print(next(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['Resources'].get('CPU') == {cpus}))"
    )
    why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=120"]
    log = head.folder / "drain.log"
    assert head.start([sys.executable, "-c", ask], log).wait(120) == 0, log.read_text()
    found = log.read_text().split()[-1]
    command = [RAY, "drain-node", f"--address={head.address}:{PORT}", f"--node-id={found}", *why]
    assert head.start(command, log).wait(120) == 0, log.read_text()
