"""Runs of a whole pipeline as processes, and what lies in the store meanwhile and afterwards.

The folder of a store's objects is the view from outside: a stage has begun where its `_job.json` lies, and a commit is
a ledger entry or a manifest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from s3_servers import Bucket, S3Server

from ccp_ray.artifact import open_artifact, verify_artifact

STAGES = ("documents", "corpus", "encoder", "embeddings", "calibration", "evaluation", "index", "report")


class UndisturbedRun(NamedTuple):
    """By stage its fingerprints; where it wrote, what it said, and every command line of the machine meanwhile."""

    fingerprints: dict[str, str]
    bucket: Bucket
    places: dict[str, str]
    log: Path
    command_lines: dict[str, bytes]


def in_progress(run: Path, stage: str) -> bool:
    """The stage has begun, and in training a checkpoint is committed."""
    if stage == "encoder":
        return any((run / stage / "_ledger/checkpoints").glob("*.json"))
    return (run / stage / "_job.json").exists()


def commits(run: Path) -> set[Path]:
    """Everything that counts so far."""
    found: set[Path] = set()
    for folder, _, names in os.walk(run):  # passes over folders that are deleted meanwhile
        in_ledger = "_ledger" in Path(folder).parts
        found |= {Path(folder, name) for name in names if in_ledger or name == "artifact.json"}
    return found


def fingerprints(run: str) -> dict[str, str]:
    """Of every stage, all of whose files are as their manifests say."""
    artifacts = {stage: open_artifact(f"{run}/{stage}") for stage in STAGES}
    assert [problem for artifact in artifacts.values() for problem in verify_artifact(artifact)] == []
    return {stage: artifact.fingerprint for stage, artifact in artifacts.items()}


def environment(server: S3Server, cache: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return clean | server.environment() | {"CCP_RAY_CACHE": str(cache)}
