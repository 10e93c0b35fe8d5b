"""S3 servers on loopback for the bench: started here, reached by the standard variables, gone at the end.

`rclone serve s3` (a real server over a folder, which ignores `If-None-Match`) and `moto_server` (which honours it).
Both come with the dev extra. Loopback has no distance: figures say what our side and the protocol cost, not a network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ccp_ray.errors import CcpError, UsageError

ServerName = Literal["rclone", "moto"]
_PROGRAMS = {"rclone": "rclone", "moto": "moto_server"}
_ACCESS_KEY, _SECRET_KEY = "CCPRAYBENCHKEY000001", "loopback-only-0123456789abcdefghijklmnop"
_PATIENCE_S = 30.0


@contextlib.contextmanager
def s3_bucket(name: ServerName, folder: Path) -> Iterator[str]:
    """The URI of an empty bucket on a server that keeps its files below `folder`.

    While it runs, this process's AWS_* variables lead there: start Ray within, so that its workers see them too.
    Raises UsageError where the program is not installed, CcpError where it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with running(_command(name, port, folder), port, folder / f"{name}.log"), _environment(port):
        import boto3
        from botocore.config import Config

        bucket = f"bench-{uuid.uuid4().hex[:12]}"
        # The first request to a server that has just begun to listen may meet its start.
        config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 5})
        boto3.session.Session().client("s3", config=config).create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"


def _command(name: ServerName, port: int, folder: Path) -> list[str]:
    beside = Path(sys.executable).with_name(_PROGRAMS[name])
    program = str(beside) if beside.is_file() else shutil.which(_PROGRAMS[name])
    if program is None:
        raise UsageError(f"{_PROGRAMS[name]} is not installed, and the bench needs it; install ccp-ray[dev]")
    if name == "moto":
        return [program, "-H", "127.0.0.1", "-p", str(port)]
    data = folder / "data"
    data.mkdir()
    keys = ["--auth-key", f"{_ACCESS_KEY},{_SECRET_KEY}", "--addr", f"127.0.0.1:{port}"]
    return [program, "serve", "s3", *keys, "--vfs-cache-mode", "writes", "--cache-dir", f"{folder}/cache", str(data)]


@contextlib.contextmanager
def _environment(port: int) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    ours = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ |= ours
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ |= before


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server as a child process, once it listens on the port. Raises CcpError with its log's end if it never does.

    environment: None for this process's, without what S3 servers would take from it.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment or own | {"RCLONE_CONFIG": os.devnull}
        )
    try:
        _wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip()[-500:]
    raise CcpError(f"the server did not start; it said: {said}")


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
