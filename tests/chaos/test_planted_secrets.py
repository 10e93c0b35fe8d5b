"""Secrets stay in the environment: none in what a pipeline on S3 writes, says or shows to others on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_run import UndisturbedRun
from planted import found


@pytest.mark.timeout(600)
def test_a_pipeline_on_s3_leaves_no_secret_anywhere(undisturbed_run: UndisturbedRun) -> None:
    run = undisturbed_run
    leaks = [leak for line, data in run.command_lines.items() for leak in found(f"the command line {line[:60]}", data)]
    leaks += found("what it said", run.log.read_bytes())
    client, keys = run.bucket.server.client(), run.bucket.keys()
    for key in keys:
        leaks += found(key, client.get_object(Bucket=run.bucket.name, Key=key)["Body"].read())
    files = [path for place in run.places.values() for path in Path(place).rglob("*") if path.is_file()]
    for path in files:
        leaks += found(str(path), path.read_bytes())
    assert leaks == []
    # It was looked where such things are: Ray's processes, Ray's log files, the store.
    assert sum("gcs_server" in line or "raylet" in line for line in run.command_lines) >= 2
    assert any(path.name == "raylet.out" for path in files)
    assert {"run/report/report.html", "run/encoder/_run.json"} <= set(keys)
    assert not Path(run.places["HOME"], ".ray").exists()  # where Ray would keep a token of its own making
