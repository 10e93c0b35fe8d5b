"""The S3 side of the store: boto3 against any S3-compatible endpoint.

Retries are botocore's standard mode (8 tries, exponential back-off with jitter), which covers 500, 503
SlowDown, throttling and cut connections. Whether the endpoint honours `If-None-Match` is probed once a bucket
and process: AWS and most do; some accept the header and overwrite all the same, which the probe detects.
"""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from ccp_ray.errors import StoreError
from ccp_ray.storage import ObjectInfo, Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound"}
_HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it or correct the URI",
    "403": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "AccessDenied": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "InvalidAccessKeyId": "the access key is unknown to this endpoint; check the credentials and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "wrong credentials: the secret key does not match the access key",
}


@functools.cache
def _client(process: int) -> S3Client:
    del process  # a client must not cross a fork: one for each process
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 8},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        # Endpoints other than AWS often refuse the newer default of a trailing checksum.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else {},
    )
    return boto3.client("s3", config=config)


@functools.cache
def _honours_if_none_match(bucket: str, prefix: str) -> bool:
    client, key = _client(os.getpid()), f"{prefix}/_probe-{uuid.uuid4().hex}".lstrip("/")
    client.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
        return False
    except ClientError as error:
        if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
            return True
        if _code(error) in ("NotImplemented", "501"):
            return False
        raise
    finally:
        client.delete_object(Bucket=bucket, Key=key)


class S3Store(Store):
    """Objects under `s3://bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")

    @property
    def client(self) -> S3Client:
        return _client(os.getpid())

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        extra: dict[str, Any] = {}
        if start or length is not None:
            extra["Range"] = f"bytes={start}-" + ("" if length is None else str(start + length - 1))
        with self._explained("read", key):
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self._key(key), **extra)["Body"].read()
            except ClientError as error:
                if _code(error) == "InvalidRange":
                    return b""  # as a file read past its end
                raise

    def write(self, key: str, data: bytes) -> None:
        with self._explained("write", key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained("write", key):
            if not self.conditional_writes():
                if self.size(key) is not None:
                    return False
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)
                return True
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                if _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                    return False
                raise

    def upload(self, path: Path, key: str) -> None:
        with self._explained("write", key):
            self.client.upload_file(str(path), self.bucket, self._key(key))

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with self._explained("read", key):
            try:
                self.client.download_file(self.bucket, self._key(key), str(partial))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        try:
            with self._explained("read", key):
                return int(self.client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        cut = len(self.prefix) + 1 if self.prefix else 0
        full = f"{self.prefix}/{prefix}".lstrip("/")
        with self._explained("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield ObjectInfo(item["Key"][cut:], int(item["Size"]))

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def conditional_writes(self) -> bool:
        with self._explained("write", "_probe"):
            return _honours_if_none_match(self.bucket, self.prefix)

    def _key(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r}: a key must stay below {self.root}")
        return f"{self.prefix}/{key}".lstrip("/")

    @contextlib.contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except NoCredentialsError as error:
            self._fail(verb, key, "no credentials found in the standard AWS chain (environment, profile, role)", error)
        except ClientError as error:
            if _code(error) in _MISSING:
                raise FileNotFoundError(self.uri(key)) from None
            self._fail(verb, key, _HINTS.get(_code(error), str(error)), error)
        except (BotoCoreError, Boto3Error) as error:
            self._fail(
                verb, key, next((hint for code, hint in _HINTS.items() if code in str(error)), str(error)), error
            )

    def _fail(self, verb: str, key: str, reason: str, error: Exception) -> NoReturn:
        raise StoreError(f"cannot {verb} {self.uri(key)}: {reason}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
