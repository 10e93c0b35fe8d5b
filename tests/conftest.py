"""Fixtures that several test files share: one local Ray for the session, S3 servers, the folder of real text."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
import s3_servers
import small_recipe
from command_line import SmallRun
from hypothesis import settings
from s3_servers import Bucket, S3Server

from ccp_ray.artifact import Artifact
from ccp_ray.pretrain_job import pretrain
from ccp_ray.session import ray_session

# No deadline: the machine may be busy. In CI the same examples every time: a red run must mean a change.
settings.register_profile("ccp-ray", deadline=None, derandomize=os.environ.get("CI") == "true", print_blob=True)
settings.load_profile("ccp-ray")


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A local Ray with two CPUs; started once, at the first test that asks for it."""
    with ray_session(cpus=2):
        yield


@pytest.fixture(scope="session")
def small_run(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A small artifact of every stage, made with the command line. Read only: copy before you change one."""
    return command_line.small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def small_corpus(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The corpus of `small_recipe`. Read only."""
    return small_recipe.corpus(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def trained(small_corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The encoder of `small_recipe`, trained undisturbed by two workers. Read only."""
    return pretrain(small_corpus.uri, str(tmp_path_factory.mktemp("trained") / "encoder"), small_recipe.configured())


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`rclone serve s3`: checks signatures, ignores `If-None-Match`."""
    with s3_servers.rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """`moto_server`: honours `If-None-Match`, checks no signatures."""
    with s3_servers.moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def rclone_bucket(rclone_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket on rclone, with this process's credential chain pointing to it."""
    return _bucket(rclone_server, monkeypatch)


@pytest.fixture
def moto_bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket on moto, with this process's credential chain pointing to it."""
    return _bucket(moto_server, monkeypatch)


@pytest.fixture(params=["rclone", "moto"])
def s3_bucket(request: pytest.FixtureRequest) -> Bucket:
    """A test that asks for this runs once on each server."""
    return request.getfixturevalue(f"{request.param}_bucket")


@pytest.fixture(params=["local", "rclone", "moto"])
def root_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to write to: a test that asks for this runs once on each kind of store."""
    if request.param == "local":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue(f'{request.param}_bucket').uri}/some/prefix"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real text (documents/, tatoeba/). Skips where there is none; fails in CI."""
    folder = Path(os.environ.get("CCP_RAY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "tatoeba").is_dir():
        message = f"no real text in {folder}: set CCP_RAY_DATA to a folder with documents/ and tatoeba/"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def _bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(server, f"test-{uuid.uuid4().hex[:12]}")
    server.client().create_bucket(Bucket=bucket.name)
    return bucket
