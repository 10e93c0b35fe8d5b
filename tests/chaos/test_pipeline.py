"""The whole pipeline on real S3 servers, undisturbed and killed in every stage: both end with the same artifacts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from s3_servers import Bucket, S3Server
from small_recipe import start, write_recipe

from ccp_ray.artifact import open_artifact, verify_artifact
from ccp_ray.storage import open_store

MEASURED = ("encoder", "embeddings", "calibration", "evaluation")
KILLED = ("documents", "corpus", *MEASURED, "index", "report")  # the baseline's stages run the code of those after it
STAGES = (*KILLED, *(f"baseline/{stage}" for stage in MEASURED))
_PATIENCE_S = 400.0


def _environment(server: S3Server, cache: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    return clean | server.environment() | {"CCP_RAY_CACHE": str(cache)}


def _finish(recipe: Path, output: str, environment: Mapping[str, str], log: Path) -> None:
    process = start("pipeline", "--config", str(recipe), "--output", output, environment=environment, log=log)
    assert process.wait(_PATIENCE_S) == 0, log.read_text()[-3000:]


def _kill_when(ready: Callable[[], bool], recipe: Path, output: str, environment: Mapping[str, str], log: Path) -> None:
    """Start the pipeline and kill -9 its driver as soon as `ready`."""
    process = start("pipeline", "--config", str(recipe), "--output", output, environment=environment, log=log)
    give_up = time.monotonic() + _PATIENCE_S
    while not ready():
        assert process.poll() is None, f"ended before it could be killed:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < give_up, log.read_text()[-3000:]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _fingerprints(output: str) -> dict[str, str]:
    return {stage: open_artifact(f"{output}/{stage}").fingerprint for stage in STAGES}


@pytest.mark.timeout(1800)
def test_killed_in_every_stage_it_ends_as_an_undisturbed_run_on_another_server(
    rclone_bucket: Bucket, moto_bucket: Bucket, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, baseline=True)
    moto, rclone = (
        _environment(bucket.server, tmp_path / bucket.server.name) for bucket in (moto_bucket, rclone_bucket)
    )
    undisturbed, killed = f"{moto_bucket.uri}/run", f"{rclone_bucket.uri}/run"
    _finish(recipe, undisturbed, moto, tmp_path / "moto.log")

    client, prefix = rclone_bucket.server.client(), "run/"

    def written(stage: str) -> list[str]:
        page = client.list_objects_v2(Bucket=rclone_bucket.name, Prefix=f"{prefix}{stage}/")
        return [item["Key"] for item in page.get("Contents", [])]

    def in_progress(stage: str) -> Callable[[], bool]:
        """The stage has begun, and in training a checkpoint is committed."""
        sign = "_ledger/checkpoints/step-00000001" if stage == "encoder" else "_job.json"
        return lambda: any(f"{stage}/{sign}" in key for key in written(stage))

    for stage in KILLED:
        _kill_when(in_progress(stage), recipe, killed, rclone, tmp_path / "rclone.log")
        assert not any(key.endswith(f"{stage}/artifact.json") for key in written(stage)) or stage == "report"
    _finish(recipe, killed, rclone, tmp_path / "rclone.log")

    with pytest.MonkeyPatch.context() as patch:
        for name, value in rclone_bucket.server.environment().items():
            patch.setenv(name, value)
        left = _fingerprints(killed)
        assert [problem for stage in STAGES for problem in verify_artifact(open_artifact(f"{killed}/{stage}"))] == []
        patch.setenv("AWS_ENDPOINT_URL", moto_bucket.server.endpoint)
        right = _fingerprints(undisturbed)
        results = json.loads(open_store(undisturbed).read("report/results.json"))
    assert left == right
    assert results["after"]["translations"]["variants"]["raw"]["macro"]["mean"] >= 0
    text = (tmp_path / "moto.log").read_text() + (tmp_path / "rclone.log").read_text()
    assert moto_bucket.server.environment()["AWS_SECRET_ACCESS_KEY"] not in text
