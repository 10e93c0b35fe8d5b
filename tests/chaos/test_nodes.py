"""Nodes of a real cluster come, are about to go, and are killed under a training run.

For machines where hosts cannot be made; where they can, `test_hosts` does the same with hosts, and cuts one off.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters import RAY, Cluster, json_of, node, started_cluster
from command_line import SmallRun
from hosts import obstacle
from ranks import wait_until
from small_recipe import RECIPE, start

pytestmark = pytest.mark.skipif(not obstacle(), reason="test_hosts does the same with hosts, and more")


@pytest.mark.timeout(900)
def test_elastic_workers_go_on_without_a_node_that_died(small_run: SmallRun, tmp_path: Path) -> None:
    """Three workers, one of them on a node that is killed: two go on from the last checkpoint."""
    config, output = tmp_path / "config.json", tmp_path / "encoder"
    small = {"groups_per_step": 6, "pairs_per_group": 8, "steps": 20, "log_every": 1}
    small |= {"bank": {"size": 32, "warmup_steps": 2, "placement": "sharded"}}
    small |= {"resources": {"workers": [1, 3], "checkpoint_every": 2}}
    config.write_text(json.dumps(RECIPE["pretrain"] | small))
    with (
        started_cluster() as cluster,
        node([f"--address={cluster.address}", "--num-cpus=1"], cluster.environment) as kill,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(cluster.run, "pretrain", small_run.corpus, "--output", output, "--config", config)
        assert wait_until(lambda: running.done() or any((output / "_ledger/checkpoints").glob("*.json")))
        kill()
        trained = running.result()
    assert json_of(trained)["measured"]["workers"] == 2
    assert "pretrain: 1 to 3 workers" in trained.stderr
    assert "pretrain: going on from the checkpoint of step" in trained.stderr
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))


@pytest.mark.timeout(900)
def test_a_node_that_comes_is_used_and_one_that_is_about_to_go_leaves_a_checkpoint(
    small_run: SmallRun, tmp_path: Path
) -> None:
    """Two workers, then three; Ray says that a node will be taken; it is killed, and two go on. The run has no end."""
    config, log, ledger = tmp_path / "config.json", tmp_path / "log", tmp_path / "encoder/_ledger/checkpoints"
    endless = {"groups_per_step": 6, "pairs_per_group": 8, "steps": 10**6, "bank": {"size": 32}}
    endless |= {"resources": {"workers": [1, 3], "checkpoint_every": 50, "resize_every_s": 2}}
    config.write_text(json.dumps(RECIPE["pretrain"] | endless))
    with started_cluster() as cluster:
        arguments = (small_run.corpus, "--output", str(tmp_path / "encoder"), "--config", str(config))
        running = start("pretrain", *arguments, "--address", cluster.address, environment=cluster.environment, log=log)
        said = listener(log, lambda: running.poll() is not None)
        try:
            assert wait_until(lambda: running.poll() is not None or any(ledger.glob("*.json")))
            with node([f"--address={cluster.address}", "--num-cpus=1"], cluster.environment) as kill:
                grown = said(r"going on from the checkpoint of step (\d+) with 3 workers")
                drain(cluster)
                noticed = said(r"Ray is about to take a node; the checkpoint of step (\d+) is complete")
                kill()
                left = said(r"going on from the checkpoint of step (\d+) with 2 workers")
        finally:
            running.send_signal(signal.SIGINT)
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()
    assert 0 <= grown < noticed <= left


def listener(log: Path, over: Callable[[], bool]) -> Callable[[str], int]:
    """Waits for a line and gives its number; fails with the log where the run ends or nothing comes."""

    def said(pattern: str) -> int:
        give_up = time.monotonic() + 180
        while (found := re.search(pattern, log.read_text())) is None and not over() and time.monotonic() < give_up:
            time.sleep(0.2)
        assert found, log.read_text()
        return int(found[1])

    return said


def drain(cluster: Cluster) -> None:
    """Tell Ray what a cloud would: the node with one CPU will be taken in two minutes."""
    ask = (
        f"import ray; ray.init('{cluster.address}', logging_level='ERROR', log_to_driver=False)\n"
        "print(next(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['Resources'].get('CPU') == 1))"
    )
    run = {"env": dict(cluster.environment), "check": True, "capture_output": True, "text": True, "timeout": 120}
    found = subprocess.run([sys.executable, "-c", ask], **run).stdout.split()[-1]
    why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=120"]
    subprocess.run([RAY, "drain-node", f"--address={cluster.address}", f"--node-id={found}", *why], **run)
