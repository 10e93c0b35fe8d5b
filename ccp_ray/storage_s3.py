"""The S3 side of the store: boto3 against any S3-compatible endpoint.

Retries are botocore's standard mode (8 tries, exponential back-off with jitter), which covers 500, 503
SlowDown, throttling and cut connections. Whether the endpoint honours `If-None-Match` is probed once a bucket
and process: AWS and most do; some accept the header and overwrite all the same, which the probe detects.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlparse

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from ccp_ray.errors import StoreError
from ccp_ray.storage import TEMPORARY, ObjectInfo, Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound"}
_PRECONDITION = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_READ_TRIES = 4
_HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it or correct the URI",
    "403": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "AccessDenied": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "InvalidAccessKeyId": "the access key is unknown to this endpoint; check the credentials and AWS_ENDPOINT_URL",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes wrong; set it",
    "SignatureDoesNotMatch": "wrong credentials: the secret key does not match the access key",
}


# What decides which endpoint and which credentials a client uses. A change of any of them needs another client.
_CHAIN = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_CA_BUNDLE"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_MAX_ATTEMPTS"),
)
_lock = threading.Lock()
_clients: dict[bytes, S3Client] = {}
_conditional: dict[tuple[bytes, str], bool] = {}


def _scope() -> bytes:
    """Names the process (a client must not cross a fork) and the chain in force; a digest, so no secret lingers."""
    values = [str(os.getpid()), *(os.environ.get(name, "") for name in _CHAIN)]
    return hashlib.sha256("\0".join(values).encode()).digest()


def _client() -> S3Client:
    scope = _scope()
    with _lock:
        if scope not in _clients:
            _clients[scope] = _new_client()
        return _clients[scope]


def _new_client() -> S3Client:
    session = boto3.session.Session()  # boto3's default session would keep the first credentials it saw
    config = Config(
        retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "8"))},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        # Endpoints other than AWS often refuse the newer default of a trailing checksum.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = session.client("s3", config=config)
    host = urlparse(client.meta.endpoint_url).hostname or ""
    chosen = session._session.get_scoped_config().get("s3")  # the profile's own `s3 = addressing_style = ...`
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) or (chosen and "addressing_style" in chosen):
        return client
    # Elsewhere bucket names are seldom host names.
    return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))


def _honours_if_none_match(bucket: str, prefix: str) -> bool:
    scope = _scope()
    if (scope, bucket) not in _conditional:
        _conditional[scope, bucket] = _probe_if_none_match(_client(), bucket, prefix)
    return _conditional[scope, bucket]


def _probe_if_none_match(client: S3Client, bucket: str, prefix: str) -> bool:
    key = f"{prefix}/{TEMPORARY}probe-{uuid.uuid4().hex}".lstrip("/")
    client.put_object(Bucket=bucket, Key=key, Body=b"1")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
        return False
    except ClientError as error:
        if _code(error) in _PRECONDITION:
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
        return _client()

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        extra: dict[str, Any] = {}
        if start or length is not None:
            extra["Range"] = f"bytes={start}-" + ("" if length is None else str(start + length - 1))
        with self._explained("read", key):
            for _ in range(_READ_TRIES - 1):
                # botocore retries requests, but not a connection that is cut within the body
                with contextlib.suppress(ResponseStreamingError, IncompleteReadError, ReadTimeoutError):
                    return self._get(key, extra)
            return self._get(key, extra)

    def _get(self, key: str, extra: dict[str, Any]) -> bytes:
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self._key(key), **extra)["Body"].read()
        except ClientError as error:
            if _code(error) in ("InvalidRange", "416"):
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
                if _code(error) in _PRECONDITION:
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
        full = self._key(prefix)
        with self._explained("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/") and TEMPORARY not in item["Key"]:
                        yield ObjectInfo(item["Key"][cut:], int(item["Size"]))

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def conditional_writes(self) -> bool:
        with self._explained("write", "_probe"):
            return _honours_if_none_match(self.bucket, self.prefix)

    def server_date(self, key: str) -> str | None:
        """The endpoint's clock, as its answer about an object gives it (RFC 5322; one second fine)."""
        with self._explained("read", key):
            answer = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            return answer["ResponseMetadata"]["HTTPHeaders"].get("date")

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
        except EndpointConnectionError as error:
            self._fail(verb, key, f"{error}; check AWS_ENDPOINT_URL and that the endpoint is up", error)
        except (BotoCoreError, Boto3Error) as error:
            self._fail(
                verb, key, next((hint for code, hint in _HINTS.items() if code in str(error)), str(error)), error
            )

    def _fail(self, verb: str, key: str, reason: str, error: Exception) -> NoReturn:
        reason = re.sub(r"//[^/@\s]+@", "//", reason)  # an endpoint URL may carry a password
        raise StoreError(f"cannot {verb} {self.uri(key)}: {reason}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
