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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from command_line import SETTINGS
from s3_servers import free_port

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
            [*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    # Ray's sockets lie below: a path of pytest's would be longer than a socket's name may be.
    folder = tempfile.mkdtemp(prefix="ccp-ray-")
    environment = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}
    port = free_port()
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"]
    options += ["--disable-usage-stats", f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000"]
    head = subprocess.Popen(
        [_RAY, "start", "--head", "--block", f"--port={port}", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert head.stdout is not None
        for line in head.stdout:  # ends with the process, if that fails
            if "--block" in line or "Ray runtime started" in line:
                break
        yield Cluster(f"127.0.0.1:{port}", environment)
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:  # by id: no other Ray may suffer
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


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
