"""What the runs of a whole pipeline share: a recipe, and a run that nobody disturbed.

It is on one machine, with a Ray of its own, on the S3 server that honours `If-None-Match`. `test_planted_secrets` looks
through it: its secrets are planted, it writes to places of its own, and command lines are watched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_run import UndisturbedRun, environment, fingerprints
from planted import PLANTED, own_places, watched
from s3_servers import Bucket, S3Server
from small_recipe import start, write_recipe

from ccp_ray.storage import open_store

_PATIENCE_S = 400.0


@pytest.fixture(scope="session")
def pipeline_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def undisturbed_run(
    moto_server: S3Server, pipeline_recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[UndisturbedRun]:
    log, bucket = tmp_path_factory.mktemp("undisturbed") / "log", Bucket(moto_server, "undisturbed")
    moto_server.client().create_bucket(Bucket=bucket.name)
    output = f"{bucket.uri}/run"
    with own_places() as places, pytest.MonkeyPatch.context() as patch:
        clean = environment(moto_server, Path(places["CCP_RAY_CACHE"])) | PLANTED | places
        process = start("pipeline", "--config", str(pipeline_recipe), "--output", output, environment=clean, log=log)
        lines = watched(process, _PATIENCE_S)
        assert process.returncode == 0, log.read_text()[-3000:]
        for name, value in moto_server.environment().items():
            patch.setenv(name, value)
        results = json.loads(open_store(output).read("report/results.json"))
        assert results["after"]["translations"]["variants"]["raw"]["macro"]["mean"] >= 0
        found = fingerprints(output)
        patch.undo()
        yield UndisturbedRun(found, bucket, places, log, lines)


@pytest.fixture(scope="session")
def undisturbed(undisturbed_run: UndisturbedRun) -> dict[str, str]:
    """Its fingerprints by stage."""
    return undisturbed_run.fingerprints
