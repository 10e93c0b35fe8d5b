"""Secrets stay in the environment: none in what a run writes, says or shows to other users of the machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from command_line import ccp
from s3_servers import Bucket
from small_recipe import RECIPE, start, write_recipe

from ccp_ray.artifact import find_artifact
from ccp_ray.errors import CcpError

PLANTED = {
    "AWS_ACCESS_KEY_ID": "CCPRAYPLANTEDKEY0001",
    "AWS_SECRET_ACCESS_KEY": f"planted/{secrets.token_urlsafe(30)}",
    "AWS_SESSION_TOKEN": f"planted+{secrets.token_urlsafe(60)}==",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
SECRETS = {name: value.encode() for name, value in PLANTED.items() if name != "RAY_AUTH_MODE"}
PLACES = ("RAY_TMPDIR", "TMPDIR", "HOME", "CCP_RAY_CACHE")  # where a run may write on this machine


@pytest.fixture
def places() -> Iterator[dict[str, str]]:
    """Folders of this test's own. Their names are short, for Ray's sockets lie below."""
    folder = Path(tempfile.mkdtemp(prefix="ccp-ray-"))
    try:
        for name in PLACES:
            (folder / name[:3]).mkdir(exist_ok=True)
        yield {name: str(folder / name[:3]) for name in PLACES}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def found(where: str, data: bytes) -> list[str]:
    return [f"{name} in {where}" for name, value in SECRETS.items() if value in data]


def command_lines() -> Mapping[str, bytes]:
    """Of every process of this machine, as any user sees them."""
    lines = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                lines[folder.name] = (folder / "cmdline").read_bytes()
    return lines


def watched(process: subprocess.Popen[bytes], seconds: float) -> dict[str, bytes]:
    """Every command line that was there while the process ran."""
    seen: dict[str, bytes] = {}
    for _ in range(int(seconds / 0.1)):
        seen |= {line.decode(errors="replace"): line for line in command_lines().values()}
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return seen
    process.kill()
    raise AssertionError(f"not done after {seconds} s")


@pytest.mark.timeout(400)
def test_a_pipeline_on_s3_leaves_no_secret_anywhere(moto_bucket: Bucket, places: dict[str, str], tmp_path: Path):
    training = RECIPE["pretrain"] | {"steps": 4, "resources": {"workers": 1, "checkpoint_every": 2}}
    recipe, output, log = (
        write_recipe(tmp_path, pretrain=training, benchmarks={"context": None}),
        f"{moto_bucket.uri}/run",
        tmp_path / "log",
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    environment = clean | moto_bucket.server.environment() | PLANTED | places
    process = start("pipeline", "--config", str(recipe), "--output", output, environment=environment, log=log)
    lines = watched(process, 300)
    assert process.returncode == 0, log.read_text()[-3000:]
    assert find_artifact(f"{output}/report") is not None

    leaks = [leak for line, data in lines.items() for leak in found(f"the command line {line[:60]}", data)]
    leaks += found("what it said", log.read_bytes())
    client, keys = moto_bucket.server.client(), moto_bucket.keys()
    for key in keys:
        leaks += found(key, client.get_object(Bucket=moto_bucket.name, Key=key)["Body"].read())
    files = [path for place in places.values() for path in Path(place).rglob("*") if path.is_file()]
    for path in files:
        leaks += found(str(path), path.read_bytes())
    assert leaks == []
    # It was looked where such things are: Ray's processes, Ray's log files, the store.
    assert sum("gcs_server" in line or "raylet" in line for line in lines) >= 2
    assert any(path.name == "raylet.out" for path in files)
    assert {"run/report/report.html", "run/encoder/_run.json"} <= set(keys)
    assert not Path(places["HOME"], ".ray").exists()  # where Ray would keep a token of its own making


def test_a_wrong_secret_is_not_in_the_error(rclone_bucket: Bucket, places: dict[str, str], tmp_path: Path):
    environment = dict(os.environ) | {"AWS_SECRET_ACCESS_KEY": PLANTED["AWS_SECRET_ACCESS_KEY"]} | places
    log = tmp_path / "log"
    process = start("generate", "--output", f"{rclone_bucket.uri}/x", environment=environment, log=log)
    assert process.wait(120) == 1
    assert "wrong credentials: the secret key does not match the access key" in log.read_text()
    assert found("what it said", log.read_bytes()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:planted@bucket/documents",
        "https://user:planted@host/documents.jsonl",
        "https://host/d.jsonl?X-Amz-Credential=planted&X-Amz-Signature=planted&X-Amz-Security-Token=planted",
    ],
)
def test_an_address_with_secrets_is_refused_without_them(uri: str, tmp_path: Path):
    for arguments in (("prepare", uri, "--output", tmp_path / "x"), ("generate", "--output", uri)):
        result = ccp(*arguments)
        assert result.code == 2
        assert "expected s3://bucket/prefix" in result.error or "unknown scheme 'https'" in result.error
        assert "planted" not in result.err + result.out
    assert os.listdir(tmp_path) == []


def test_an_endpoint_with_a_password_is_refused_without_it(moto_bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_bucket.server.endpoint.replace("//", "//user:planted@"))
    result = ccp("generate", "--output", f"{moto_bucket.uri}/x")
    assert result.code == 2
    assert "holds a user, a password or a query" in result.error
    assert "planted" not in result.err
    assert moto_bucket.keys() == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://a:b@host:9/x and s3://k@bucket", "at http://***@host:9/x and s3://***@bucket"),
        ("GET https://h/k?x=1&X-Amz-Signature=abc&y=2", "GET https://h/k?x=1&X-Amz-Signature=***&y=2"),
        ("mail someone@host, s3://bucket/a@b/c?d=e", "mail someone@host, s3://bucket/a@b/c?d=e"),
    ],
)
def test_what_addresses_hide_is_in_no_message(text: str, shown: str):
    assert str(CcpError(text)) == shown
