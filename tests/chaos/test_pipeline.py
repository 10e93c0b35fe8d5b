"""The whole pipeline on a real S3 server, killed in every stage: it ends with the artifacts of an undisturbed run.

For machines where hosts cannot be made; where they can, `test_hosts` kills the driver in the same stages, and more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import obstacle
from pipeline_run import STAGES, environment, fingerprints, finish, in_progress
from ranks import wait_until
from s3_servers import rclone_server
from small_recipe import start

_PATIENCE_S = 400.0


@pytest.mark.skipif(not obstacle(), reason="test_hosts kills the driver in every stage, and more")
@pytest.mark.timeout(1800)
def test_killed_in_every_stage_it_ends_as_an_undisturbed_run_on_another_server(
    undisturbed: dict[str, str], pipeline_recipe: Path, tmp_path: Path
) -> None:
    objects, log = tmp_path / "objects", tmp_path / "log"
    run = objects / "killed" / "run"
    run.parent.mkdir(parents=True)
    with rclone_server(objects) as server:
        clean = environment(server, tmp_path / "cache")
        for stage in STAGES:
            kill_in(stage, run, pipeline_recipe, clean, log)
        finish(pipeline_recipe, "s3://killed/run", clean, log)
    assert fingerprints(str(run)) == undisturbed
    assert clean["AWS_SECRET_ACCESS_KEY"] not in log.read_text()


def kill_in(stage: str, run: Path, recipe: Path, clean: dict[str, str], log: Path) -> None:
    """Start the pipeline and kill -9 its driver as soon as the stage is in progress."""
    output = "s3://killed/run"
    process = start("pipeline", "--config", str(recipe), "--output", output, environment=clean, log=log)
    wait_until(lambda: in_progress(run, stage) or process.poll() is not None, _PATIENCE_S)
    assert process.poll() is None, f"ended before it could be killed in {stage}:\n{log.read_text()[-3000:]}"
    assert in_progress(run, stage), log.read_text()[-3000:]
    process.kill()
    process.wait()
    assert stage == "report" or not (run / stage / "artifact.json").exists()
