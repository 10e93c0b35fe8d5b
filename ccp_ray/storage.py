"""One small object store over local paths and S3-compatible endpoints.

A URI is a local path (`runs/x`, `file:///data/x`) or `s3://bucket/prefix`. A `Store` is rooted at a URI and
knows keys below it. Objects are written whole or not at all: a local write goes to a temporary file that is
renamed, an S3 write is one PUT or one completed multipart upload. Readers never see half an object. What a store
offers is in `storage_base`; the two kinds are `storage_local` and `storage_s3`.

Credentials come from the standard AWS chain (environment, profile, instance role) and the endpoint from
`AWS_ENDPOINT_URL` or the profile; neither is ever part of a configuration, an artifact or a message.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from ccp_ray.errors import StoreError, UsageError
from ccp_ray.storage_base import TEMPORARY, Leftover, ObjectInfo, Store
from ccp_ray.storage_local import LocalStore, storage_full

__all__ = [
    "TEMPORARY",
    "Leftover",
    "LocalStore",
    "ObjectInfo",
    "Store",
    "absolute_uri",
    "open_store",
    "read_uri",
    "split_uri",
    "storage_full",
]


def open_store(uri: str) -> Store:
    """The store rooted at a path, `file://` or `s3://` URI. Raises UsageError for another scheme."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise UsageError("an empty string is not a URI; use a local path, file:// or s3://")
    if not separator:
        return LocalStore(Path(uri))
    if scheme == "file":
        return LocalStore(Path(unquote(rest) or "/"))
    if scheme != "s3":
        raise UsageError(f"{uri}: unknown scheme {scheme!r}; use a local path, file:// or s3://")
    bucket, _, prefix = rest.partition("/")
    if not bucket or "@" in bucket:
        raise UsageError(f"{uri}: expected s3://bucket/prefix (credentials come from the standard AWS chain)")
    if ".." in prefix.split("/"):
        raise UsageError(f"{uri}: an s3:// URI may not contain '..'")
    from ccp_ray.storage_s3 import S3Store  # botocore takes 0.3 s to import; local runs do without

    return S3Store(bucket, prefix.strip("/"))


def absolute_uri(uri: str) -> str:
    """The URI as any process on any node would write it: local paths made absolute."""
    return open_store(uri).root


def split_uri(uri: str) -> tuple[Store, str]:
    """The store of the folder that holds an object, and the object's key."""
    scheme, separator, rest = uri.rpartition("://")
    head, slash, name = rest.rstrip("/").rpartition("/")
    if scheme == "s3" and not head:
        raise UsageError(f"{uri}: expected s3://bucket/key")
    return open_store(f"{scheme}{separator}{head or slash or '.'}"), unquote(name) if scheme == "file" else name


def read_uri(uri: str) -> bytes:
    """The bytes of one object. Raises UsageError naming the URI where there is none."""
    store, key = split_uri(uri)
    try:
        return store.read(key)
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such file") from None
    except StoreError as error:
        if Path(uri).is_dir():
            raise UsageError(f"{uri}: is a folder, expected a file") from None
        raise error
