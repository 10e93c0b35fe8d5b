"""What the runs of a whole pipeline share: a recipe, and the fingerprints of a run that nobody disturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_run import environment, fingerprints, finish
from s3_servers import S3Server
from small_recipe import write_recipe

from ccp_ray.storage import open_store


@pytest.fixture(scope="session")
def pipeline_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def undisturbed(
    moto_server: S3Server, pipeline_recipe: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """By stage: on one machine, with a Ray of its own, on the S3 server that honours `If-None-Match`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    moto_server.client().create_bucket(Bucket="undisturbed")
    output, clean = "s3://undisturbed/run", environment(moto_server, folder / "cache")
    finish(pipeline_recipe, output, clean, folder / "log")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clean.items():
            patch.setenv(name, value)
        results = json.loads(open_store(output).read("report/results.json"))
        assert results["after"]["translations"]["variants"]["raw"]["macro"]["mean"] >= 0
        assert clean["AWS_SECRET_ACCESS_KEY"] not in (folder / "log").read_text()
        return fingerprints(output)
