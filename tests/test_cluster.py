"""Jobs reach a real cluster by --address, with its token."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster, json_of, started_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started_cluster() as started:
        yield started


def test_jobs_run_on_a_cluster_with_a_token(cluster: Cluster, small_run, tmp_path: Path):
    """A whole pipeline on hosts is `tests/chaos/test_hosts.py`'s."""
    output = str(tmp_path / "corpus")
    prepared = cluster.run("prepare", small_run.documents, "--output", output, CCP_RAY_LOGS="json")
    # A cluster makes the same artifact as a local Ray.
    assert json_of(prepared)["artifact"]["fingerprint"] == small_run.results["prepare"].json["artifact"]["fingerprint"]
    check_log_lines(prepared.stderr, cluster, output)


def check_log_lines(said: str, cluster: Cluster, run: str) -> None:
    """The driver's are all JSON, and each piece has its line in the log of the worker that committed it."""
    lines = [json.loads(line) for line in said.splitlines()]
    stages = {line["stage"] for line in lines}
    assert {line["run"] for line in lines} == {run}
    assert {"tokens", "repeats"} <= stages
    logs = Path(cluster.environment["RAY_TMPDIR"]).glob("session_2*/logs/worker-*.err")
    told = [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.startswith('{"time"')]
    workers = {(line["stage"], line["piece"]) for line in told if line["run"] == run}
    pieces = {(path.parent.name, path.stem) for path in Path(run, "_ledger").glob("*/*.json")}
    assert workers == {(stage, piece) for stage, piece in pieces if stage in stages}
    assert {line["pid"] for line in told}.isdisjoint({line["pid"] for line in lines})


def test_a_wrong_token_is_one_clear_line(cluster: Cluster, tmp_path: Path):
    done = cluster.run("generate", "--output", tmp_path / "out", RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"ccp-ray: error: cannot reach Ray at {cluster.address}: ")
    assert "RAY_AUTH_MODE and the token" in lines[-1]
    assert len(lines) <= 2, done.stderr  # the other one names the file with what Ray's core wrote
    assert not (tmp_path / "out").exists()
