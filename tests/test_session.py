"""The Ray session: local by default, re-entrant, quiet, and never a carrier of credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_servers import free_port

from ccp_ray import ray_token, session

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=120,
        check=False,
    )


@pytest.mark.usefixtures("ray_local")
def test_a_session_within_a_session_is_the_same_one():
    import ray

    with session.ray_session(cpus=7):
        assert session.cluster_cpus() == 2
    assert ray.is_initialized()


@pytest.mark.parametrize("host", ["", "import ray, ray.data"], ids=["ours alone", "a host that imported ray before"])
def test_a_local_ray_is_private_quiet_and_gone_afterwards(host: str, tmp_path: Path):
    code = f"""
{host}
import os, socket
from ccp_ray.session import ray_session, cluster_cpus
with ray_session(cpus=1):
    import grpc, ray
    assert cluster_cpus() == 1
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert ray.get(ray.remote(lambda: 41 + 1).remote()) == 42
    address = ray.get_runtime_context().gcs_address
    channel = grpc.insecure_channel(address)
    ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
    for token in (None, "0" * 64, os.environ["RAY_AUTH_TOKEN"]):
        try:
            ask(b"", metadata=[("authorization", f"Bearer {{token}}")] if token else [], timeout=20)
            print("let in")
        except grpc.RpcError as error:
            print(error.code().name)
    channel.close()  # open when Ray ends, gRPC would say so on standard error
assert not ray.is_initialized()
host, port = address.split(":")
try:
    socket.create_connection((host, int(port)), timeout=1).close()
    raise SystemExit("the local Ray still listens")
except ConnectionRefusedError:
    print("gone")
"""
    # No --address means a local Ray, whatever the shell says.
    done = run(code, RAY_ADDRESS="127.0.0.1:1", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "UNAUTHENTICATED\nUNAUTHENTICATED\nlet in\ngone\n"
    assert done.stderr == ""
    assert not (tmp_path / ".ray").exists()  # the token is in no file


def test_a_local_token_is_forgotten_before_a_cluster_is_joined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_token, "_read_again", lambda: None)
    for name in ("_made", "_mode_was_set"):
        monkeypatch.setattr(ray_token, name, "")
    for mode in (None, "token"):
        for name in (ray_token.MODE, ray_token.TOKEN, ray_token.PATH):
            monkeypatch.delenv(name, raising=False)
        if mode:
            monkeypatch.setenv(ray_token.MODE, mode)
        ray_token.demand_token()
        made = os.environ[ray_token.TOKEN]
        ray_token.demand_token()
        assert (os.environ[ray_token.MODE], os.environ[ray_token.TOKEN]) == ("token", made)
        ray_token.forget_token()
        assert (os.environ.get(ray_token.MODE), ray_token.TOKEN in os.environ) == (mode, False)
    monkeypatch.setenv(ray_token.TOKEN, "the user's own")
    ray_token.demand_token()
    ray_token.forget_token()
    assert os.environ[ray_token.TOKEN] == "the user's own"


def test_a_ray_without_a_token_is_a_persons_decision_and_said(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv(ray_token.MODE, "disabled")
    monkeypatch.delenv(ray_token.TOKEN, raising=False)
    ray_token.demand_token()
    assert ray_token.TOKEN not in os.environ
    assert "can run code in its Ray" in capsys.readouterr().err


def test_an_address_where_nothing_is_gives_one_line():
    code = f"""
from ccp_ray.errors import CcpError
from ccp_ray.session import ray_session
try:
    with ray_session("127.0.0.1:{free_port()}"):
        pass
except CcpError as error:
    print(error)
"""
    done = run(code)
    assert done.stdout.startswith("cannot reach Ray at 127.0.0.1:"), done.stderr
    assert done.stdout.count("\n") == 1


def test_credentials_are_not_sent_to_workers(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDPLANTED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "planted-token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-ray-token")
    sent = session._worker_environment()
    assert sent["AWS_ENDPOINT_URL"] == "http://store:9000"
    assert "planted" not in repr(sent).lower()


def test_what_a_submitted_job_brought_is_not_said_again(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "here")
    assert session._runtime_environment()["py_modules"]
    job = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"AWS_ENDPOINT_URL": "http://store:9000"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job | {"metadata": {}}))
    monkeypatch.chdir(ROOT)
    told = session._runtime_environment()
    assert set(told) == {"env_vars"}  # the packages are in the working directory
    assert "AWS_ENDPOINT_URL" not in told["env_vars"]
    assert told["env_vars"]["AWS_DEFAULT_REGION"] == "here"
    monkeypatch.chdir(tmp_path)  # someone's own folder with this program installed
    assert session._runtime_environment()["py_modules"]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"py_modules": ["x"]}}))
    assert "py_modules" not in session._runtime_environment()


def test_the_packages_that_travel_to_a_cluster_are_there():
    folders = [Path(folder) for folder in session._package_folders()]
    assert [folder.name for folder in folders] == ["ccp_ray", "jobs", "eval"]
    assert all((folder / "__init__.py").is_file() for folder in folders)
