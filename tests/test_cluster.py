"""Jobs reach a real cluster by --address, with its token."""

from __future__ import annotations

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
    documents = json_of(cluster.run("generate", "--output", tmp_path / "documents"))
    corpus = json_of(cluster.run("prepare", tmp_path / "documents", "--output", tmp_path / "corpus"))
    embedded = json_of(
        cluster.run("embed", small_run.encoder, tmp_path / "corpus", "--output", tmp_path / "embeddings")
    )
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
