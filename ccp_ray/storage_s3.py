"""The S3 side of the store: boto3 against any S3-compatible endpoint.

Small objects are one PUT; larger files go up in parts, and between two places of one endpoint the server copies.
Requests are retried by the client (`s3_client`); a connection that is cut within an answer's body is retried here.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from boto3.exceptions import Boto3Error, RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)

from ccp_ray.errors import StoreError
from ccp_ray.s3_client import CONFLICT, PRECONDITION, client, error_code, honours_if_none_match
from ccp_ray.storage_base import TEMPORARY, Leftover, ObjectInfo, Store, stays_below
from ccp_ray.store_events import count_cut

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

_MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}
_READ_TRIES, _UPLOAD_TRIES = 4, 3
_RACE_TRIES, _RACE_WAIT_S = 8, 0.1
_MARK = "ccp-ray-write"  # metadata of an object from a conditional PUT: a number of that call alone
_COPIES = TransferConfig(multipart_threshold=1 << 30, multipart_chunksize=256 << 20)  # one request copies up to 5 GB
_AGAIN = "run again later, finished work is kept"
_UNTRUSTED = (
    "the endpoint's certificate must be for its host name, valid, and signed by an authority that this machine trusts; "
    "name a file with the certificate of an authority of your own in AWS_CA_BUNDLE, on every node"
)
_HINTS = {
    "NoSuchBucket": "the bucket does not exist; create it or correct the URI",
    "403": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "AccessDenied": "access denied; check the credentials (standard AWS chain) and the bucket's policy",
    "InvalidAccessKeyId": "the access key is unknown to this endpoint; check the credentials and AWS_ENDPOINT_URL",
    **dict.fromkeys(("SlowDown", "503"), f"the store asks to slow down, again and again; {_AGAIN}"),
    **dict.fromkeys(("InternalError", "500", "502", "504"), f"the store fails, again and again; {_AGAIN}"),
    CONFLICT: f"other writers are at this key all the time; {_AGAIN}",
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
                body = self._body(key, extra)
                # botocore retries requests, but not a connection that is cut within the body
                try:
                    return body.read() if body else b""
                except (ResponseStreamingError, IncompleteReadError, ReadTimeoutError) as error:
                    count_cut("GetObject", error)
            body = self._body(key, extra)
            return body.read() if body else b""

    def _body(self, key: str, extra: dict[str, Any]) -> StreamingBody | None:
        """The answer to a GET; None where it would begin past the object's end, where a file reads as empty."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self._key(key), **extra)["Body"]
        except ClientError as error:
            if error_code(error) in ("InvalidRange", "416"):
                return None
            raise

    def write(self, key: str, data: bytes) -> None:
        with self._explained("write", key):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def write_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained("write", key):
            if not honours_if_none_match(self.bucket, self.prefix):
                if self.size(key) is not None:
                    return False
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)
                return True
            return self._put_if_absent(self._key(key), data)

    def _put_if_absent(self, full_key: str, data: bytes) -> bool:
        """A conditional PUT. Its answer may be lost on the way; the try after it then meets this call's own object.

        So the object carries a mark, by which a call that was sent more than once knows its own.
        """
        mark, tries = uuid.uuid4().hex, 0
        while True:
            tries += 1
            try:
                self.client.put_object(
                    Bucket=self.bucket, Key=full_key, Body=data, IfNoneMatch="*", Metadata={_MARK: mark}
                )
                return True
            except ClientError as error:
                if error_code(error) == CONFLICT and tries < _RACE_TRIES:
                    time.sleep(_RACE_WAIT_S)  # another writer's PUT is under way, and may yet fail
                    continue
                if error_code(error) not in PRECONDITION:
                    raise
                sent_again = tries > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                return sent_again and self._mark(full_key) == mark

    def _mark(self, full_key: str) -> str | None:
        """Who wrote an object that is there."""
        try:
            return self.client.head_object(Bucket=self.bucket, Key=full_key)["Metadata"].get(_MARK)
        except ClientError as error:
            if error_code(error) in _MISSING:
                return None
            raise

    def upload(self, path: Path, key: str) -> None:
        with self._explained("write", key):
            for _ in range(_UPLOAD_TRIES - 1):
                if self._uploaded_whole(path, key):
                    return
            self.client.upload_file(str(path), self.bucket, self._key(key))

    def _uploaded_whole(self, path: Path, key: str) -> bool:
        """False where an upload in parts was lost sight of: the answer to its completion did not come."""
        try:
            self.client.upload_file(str(path), self.bucket, self._key(key))
        except S3UploadFailedError as error:
            if "(NoSuchUpload)" in str(error):  # what the completion is told when it is sent again
                return False
            raise
        return True

    def download(self, key: str, path: Path) -> None:
        full_key = self._key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with self._explained("read", key):
            try:
                self.client.download_file(self.bucket, full_key, str(partial))
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

    def clock(self) -> float | None:
        with self._explained("list", ""):
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return None if date is None else email.utils.parsedate_to_datetime(date).timestamp()

    def _key(self, key: str) -> str:
        if key and not stays_below(key):
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
        except SSLError as error:
            why = str(error).partition("failed for ")[2] or str(error)
            self._fail(verb, key, f"{why}; {_UNTRUSTED}", error)
        except EndpointConnectionError as error:
            self._fail(verb, key, f"{error}; check AWS_ENDPOINT_URL and that the endpoint is up", error)
        except (HTTPClientError, IncompleteReadError, RetriesExceededError) as error:
            said = getattr(error, "last_exception", error)  # boto3's own says only that tries were exceeded
            self._fail(verb, key, f"{said}; check the network and that the endpoint is up, then {_AGAIN}", error)
        except (BotoCoreError, Boto3Error) as error:
            hint = next((hint for code, hint in _HINTS.items() if f"({code})" in str(error)), str(error))
            self._fail(verb, key, hint, error)

    def _fail(self, verb: str, key: str, reason: str, error: Exception) -> NoReturn:
        raise StoreError(f"cannot {verb} {self.uri(key)}: {reason}") from error
