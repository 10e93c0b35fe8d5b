"""A real cluster, started as an administrator would, with token authentication: jobs reach it by --address."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from command_line import SETTINGS
from ranks import wait_until
from s3_servers import free_port
from small_recipe import RECIPE

ROOT = Path(__file__).resolve().parent.parent
_RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Cluster:
    """A head node on loopback."""

    address: str
    environment: Mapping[str, str]

    def run(self, verb: str, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """A verb in a process of its own, as in a shell that holds the token."""
        chosen = [part for value in SETTINGS.get(verb, []) for part in ("--set", value)]
        command = [sys.executable, "-m", f"jobs.{verb}", *map(str, arguments), *chosen, "--address", self.address]
        environment = {**self.environment, **changes}
        return subprocess.run(
            [*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    # Ray's sockets lie below: a path of pytest's would be longer than a socket's name may be.
    folder = tempfile.mkdtemp(prefix="ccp-ray-")
    environment = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}
    # A node that died is missed after two seconds, not fifteen.
    environment |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
    port = free_port()
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    try:
        with _node([*head, f"--temp-dir={folder}", "--num-cpus=2"], environment):
            yield Cluster(f"127.0.0.1:{port}", environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _node(options: list[str], environment: Mapping[str, str]) -> Iterator[Callable[[], None]]:
    """A node that has started; call what is given to kill it at once."""
    shared = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--object-store-memory=100000000"]
    node = subprocess.Popen(
        [_RAY, "start", *shared, *options],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def kill() -> None:
        if node.poll() is None:
            for process in [*psutil.Process(node.pid).children(recursive=True), node]:  # by id: no other Ray may suffer
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            node.wait(30)

    try:
        assert node.stdout is not None
        for line in node.stdout:  # ends with the process, if that fails
            if "--block" in line or "Ray runtime started" in line:
                break
        yield kill
    finally:
        kill()


def _json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def test_jobs_run_on_a_cluster_with_a_token(cluster: Cluster, small_run, tmp_path: Path):
    documents = _json(cluster.run("generate", "--output", tmp_path / "documents"))
    corpus = _json(cluster.run("prepare", tmp_path / "documents", "--output", tmp_path / "corpus"))
    embedded = _json(cluster.run("embed", small_run.encoder, tmp_path / "corpus", "--output", tmp_path / "embeddings"))
    for made, verb in ((documents, "generate"), (corpus, "prepare"), (embedded, "embed")):
        here = small_run.results[verb].json["artifact"]["fingerprint"]
        assert made["artifact"]["fingerprint"] == here  # a cluster makes the same artifacts as a local Ray


def test_a_wrong_token_is_one_clear_line(cluster: Cluster, tmp_path: Path):
    done = cluster.run("generate", "--output", tmp_path / "out", RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"ccp-ray: error: cannot reach Ray at {cluster.address}: ")
    assert "RAY_AUTH_MODE and the token" in lines[-1]
    assert len(lines) <= 2, done.stderr  # the other one names the file with what Ray's core wrote
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(900)
def test_elastic_workers_go_on_without_a_node_that_died(cluster: Cluster, small_run, tmp_path: Path):
    """Three workers, one of them on a node that is killed: two go on from the last checkpoint."""
    config, output = tmp_path / "config.json", tmp_path / "encoder"
    small = {"groups_per_step": 6, "pairs_per_group": 8, "steps": 20, "log_every": 1}
    small |= {"bank": {"size": 32, "warmup_steps": 2, "placement": "sharded"}}
    small |= {"resources": {"workers": [1, 3], "checkpoint_every": 2}}
    config.write_text(json.dumps(RECIPE["pretrain"] | small))
    node = [f"--address={cluster.address}", "--num-cpus=1"]
    with _node(node, cluster.environment) as kill, ThreadPoolExecutor(1) as pool:
        running = pool.submit(cluster.run, "pretrain", small_run.corpus, "--output", output, "--config", config)
        assert wait_until(lambda: running.done() or any((output / "_ledger/checkpoints").glob("*.json")))
        kill()
        trained = running.result()
    assert _json(trained)["measured"]["workers"] == 2
    assert "pretrain: 1 to 3 workers" in trained.stderr
    assert "pretrain: going on from the checkpoint of step" in trained.stderr
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))
