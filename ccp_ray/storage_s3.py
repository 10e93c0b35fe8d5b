"""The S3 side of the store: boto3 against any S3-compatible endpoint.

Small objects are one PUT; larger files go up in parts, and between two places of one endpoint the server copies.
Requests are retried by the client (`s3_client`); a connection that is cut within an answer's body is retried here.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
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
from ccp_ray.s3_client import PRECONDITION, client, error_code, honours_if_none_match
from ccp_ray.storage_base import TEMPORARY, Leftover, ObjectInfo, Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}
_READ_TRIES = 4
_COPIES = TransferConfig(multipart_threshold=1 << 30, multipart_chunksize=256 << 20)  # one request copies up to 5 GB
_HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it or correct the URI",
    "403": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "AccessDenied": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "InvalidAccessKeyId": "the access key is unknown to this endpoint; check the credentials and AWS_ENDPOINT_URL",
    "RequestTimeTooSkewed": "this machine's clock is more than 15 minutes wrong; set it",
    "SignatureDoesNotMatch": "wrong credentials: the secret key does not match the access key",
}


class S3Store(Store):
    """Objects under `s3://bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")

    @property
    def client(self) -> S3Client:
        return client()

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
            if error_code(error) in ("InvalidRange", "416"):
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
                if error_code(error) in PRECONDITION:
                    return False
                raise

    def upload(self, path: Path, key: str) -> None:
        with self._explained("write", key):
            self.client.upload_file(str(path), self.bucket, self._key(key))

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with self._explained("read", key):
            try:
                self.client.download_file(self.bucket, self._key(key), str(partial))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def copy_in(self, source: Store, source_key: str, key: str) -> None:
        """From another place of the endpoint the server copies: no byte comes here."""
        if isinstance(source, S3Store):  # a process has one endpoint: that of its credential chain
            self._copy_on_server(source, source_key, key)
        else:
            super().copy_in(source, source_key, key)

    def _copy_on_server(self, source: S3Store, source_key: str, key: str) -> None:
        origin: CopySourceTypeDef = {"Bucket": source.bucket, "Key": source._key(source_key)}
        try:
            with self._explained("write", key):
                self.client.copy(origin, self.bucket, self._key(key), Config=_COPIES)
        except FileNotFoundError:
            raise FileNotFoundError(source.uri(source_key)) from None

    def size(self, key: str) -> int | None:
        try:
            with self._explained("read", key):
                return int(self.client.head_object(Bucket=self.bucket, Key=self._key(key))["ContentLength"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (info for info in self._objects(prefix) if TEMPORARY not in info.key)

    def _objects(self, prefix: str) -> Iterator[ObjectInfo]:
        full = self._key(prefix)
        with self._explained("list", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=full):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        modified = item["LastModified"].timestamp()
                        yield ObjectInfo(self._relative(item["Key"]), int(item["Size"]), modified)

    def folders(self, folder: str = "") -> Iterator[str]:
        prefix = self._key(f"{folder}/".lstrip("/"))
        with self._explained("list", folder):
            paginator = self.client.get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                yield from (item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", []))

    def leftovers(self) -> Iterator[Leftover]:
        yield from (Leftover(*info) for info in self._objects("") if TEMPORARY in info.key)
        with contextlib.suppress(FileNotFoundError), self._explained("list", ""):  # some say 404 where there is none
            yield from self._unfinished_uploads()

    def _unfinished_uploads(self) -> Iterator[Leftover]:
        folder = f"{self.prefix}/".lstrip("/")
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=folder)
        for upload in (item for page in pages for item in page.get("Uploads", [])):
            if upload["Key"].startswith(folder):  # some endpoints ignore the prefix
                size = self._uploaded(upload["Key"], upload["UploadId"])
                yield Leftover(self._relative(upload["Key"]), size, upload["Initiated"].timestamp(), upload["UploadId"])

    def _uploaded(self, full_key: str, upload: str) -> int:
        """Bytes of the parts that an unfinished upload holds."""
        try:
            pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=full_key, UploadId=upload)
            return sum(part["Size"] for page in pages for part in page.get("Parts", []))
        except self.client.exceptions.NoSuchUpload:
            return 0  # completed or aborted since it was listed

    def discard(self, leftover: Leftover) -> None:
        if not leftover.upload:
            self.delete(leftover.key)
            return
        key = self._key(leftover.key)
        with contextlib.suppress(FileNotFoundError), self._explained("delete", leftover.key):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=leftover.upload)

    def delete(self, key: str) -> None:
        with self._explained("delete", key):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def conditional_writes(self) -> bool:
        with self._explained("write", "_probe"):
            return honours_if_none_match(self.bucket, self.prefix)

    def server_date(self, key: str) -> str | None:
        """The endpoint's clock, as its answer about an object gives it (RFC 5322; one second fine)."""
        with self._explained("read", key):
            answer = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
            return answer["ResponseMetadata"]["HTTPHeaders"].get("date")

    def _key(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r}: a key must stay below {self.root}")
        return f"{self.prefix}/{key}".lstrip("/")

    def _relative(self, full_key: str) -> str:
        return full_key[len(self.prefix) + 1 :] if self.prefix else full_key

    @contextlib.contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except NoCredentialsError as error:
            self._fail(verb, key, "no credentials found in the standard AWS chain (environment, profile, role)", error)
        except ClientError as error:
            if error_code(error) in _MISSING:
                raise FileNotFoundError(self.uri(key)) from None
            self._fail(verb, key, _HINTS.get(error_code(error), str(error)), error)
        except EndpointConnectionError as error:
            self._fail(verb, key, f"{error}; check AWS_ENDPOINT_URL and that the endpoint is up", error)
        except (BotoCoreError, Boto3Error) as error:
            self._fail(
                verb, key, next((hint for code, hint in _HINTS.items() if code in str(error)), str(error)), error
            )

    def _fail(self, verb: str, key: str, reason: str, error: Exception) -> NoReturn:
        reason = re.sub(r"//[^/@\s]+@", "//", reason)  # an endpoint URL may carry a password
        raise StoreError(f"cannot {verb} {self.uri(key)}: {reason}") from error
