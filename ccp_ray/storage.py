"""One small object store over local paths and S3-compatible endpoints.

A URI is a local path (`runs/x`, `file:///data/x`) or `s3://bucket/prefix`. A `Store` is rooted at a URI and
knows keys below it. Objects are written whole or not at all: a local write goes to a temporary file that is
renamed, an S3 write is one PUT or one completed multipart upload. Readers never see half an object.

Credentials come from the standard AWS chain (environment, profile, instance role) and the endpoint from
`AWS_ENDPOINT_URL` or the profile; neither is ever part of a configuration, an artifact or a message.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from ccp_ray.errors import StoreError, UsageError

_TEMPORARY = ".ccp-tmp-"


class ObjectInfo(NamedTuple):
    key: str
    bytes: int


class Store(ABC):
    """Objects under one root. Keys are relative, use `/` and never leave the root."""

    root: str

    @abstractmethod
    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes from `start`. Raises FileNotFoundError, StoreError."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write the object atomically. Raises StoreError (no space, no permission, no bucket)."""

    @abstractmethod
    def write_if_absent(self, key: str, data: bytes) -> bool:
        """Write unless the key exists; False if it does. Atomic where `conditional_writes`."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the key, atomically, without holding it in memory."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file; the file appears complete or not at all."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes of the object, or None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error where there is none."""

    @abstractmethod
    def conditional_writes(self) -> bool:
        """Whether `write_if_absent` settles races (probed once on S3)."""

    def local_path(self, key: str, cache: Path) -> Path:
        """A local file with the object's bytes: the file itself, or a copy under `cache`."""
        target = cache / hashlib.sha256(f"{self.root}/{key}".encode()).hexdigest()[:24] / Path(key).name
        if not target.exists():
            self.download(key, target)
        return target

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"


class LocalStore(Store):
    """A directory. Atomic by rename; `write_if_absent` by hard link, which fails where the name exists."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.root = str(self.path)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._explained("read", key), open(self._file(key), "rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def write(self, key: str, data: bytes) -> None:
        with self._explained("write", key):
            os.replace(self._temporary(key, data), self._file(key))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained("write", key):
            temporary = self._temporary(key, data)
            try:
                os.link(temporary, self._file(key))
                return True
            except FileExistsError:
                return False
            finally:
                temporary.unlink()

    def upload(self, path: Path, key: str) -> None:
        with self._explained("write", key):
            target = self._file(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f"{_TEMPORARY}{os.getpid()}-{os.urandom(4).hex()}"
            try:
                shutil.copyfile(path, temporary)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def download(self, key: str, path: Path) -> None:
        with self._explained("read", key):
            LocalStore(path.parent).upload(self._file(key), path.name)

    def local_path(self, key: str, cache: Path) -> Path:
        return self._file(key)

    def size(self, key: str) -> int | None:
        file = self._file(key)
        return file.stat().st_size if file.is_file() else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        start = self.path / prefix.rpartition("/")[0]
        for folder, folders, files in os.walk(start):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                key = path.relative_to(self.path).as_posix()
                if key.startswith(prefix) and not name.startswith(_TEMPORARY):
                    yield ObjectInfo(key, path.stat().st_size)

    def delete(self, key: str) -> None:
        file = self._file(key)
        file.unlink(missing_ok=True)
        parent = file.parent
        while parent != self.path.parent and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
            parent = parent.parent

    def conditional_writes(self) -> bool:
        return True

    def _file(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r}: a key must stay below {self.root}")
        return self.path / key

    def _temporary(self, key: str, data: bytes) -> Path:
        folder = self._file(key).parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(name)
            raise
        return Path(name)

    def _explained(self, verb: str, key: str) -> _Explained:
        return _Explained(verb, self.uri(key))


class _Explained:
    """Turns an OSError into a StoreError that says what to do; a missing file stays FileNotFoundError."""

    _HINTS = {  # noqa: RUF012
        errno.ENOSPC: "the disk is full; free space and run again, finished work is kept",
        errno.EDQUOT: "the disk quota is used up; free space and run again, finished work is kept",
        errno.EACCES: "permission denied; check the owner and mode of the folder",
        errno.EROFS: "the file system is read-only; choose another --output",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }

    def __init__(self, verb: str, uri: str) -> None:
        self.verb, self.uri = verb, uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            hint = self._HINTS.get(error.errno or 0, error.strerror or str(error))
            raise StoreError(f"cannot {self.verb} {self.uri}: {hint}") from error


def open_store(uri: str) -> Store:
    """The store rooted at a path, `file://` or `s3://` URI. Raises UsageError for another scheme."""
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        from ccp_ray.storage_s3 import S3Store  # botocore takes 0.3 s to import; local runs do without

        if not parsed.netloc:
            raise UsageError(f"{uri}: expected s3://bucket/prefix")
        return S3Store(parsed.netloc, parsed.path.strip("/"))
    if parsed.scheme == "file":
        return LocalStore(Path(unquote(parsed.path)))
    if "://" in uri:
        raise UsageError(f"{uri}: unknown scheme {parsed.scheme!r}; use a local path, file:// or s3://")
    if not uri:
        raise UsageError("an empty string is not a URI; use a local path, file:// or s3://")
    return LocalStore(Path(uri))


def absolute_uri(uri: str) -> str:
    """The URI as any process on any node would write it: local paths made absolute."""
    return open_store(uri).root


def split_uri(uri: str) -> tuple[Store, str]:
    """The store of the folder that holds an object, and the object's key."""
    head, _, name = uri.rstrip("/").rpartition("/")
    if uri.startswith("s3://") and head in ("s3:", "s3:/"):
        raise UsageError(f"{uri}: expected s3://bucket/key")
    return open_store(head or ("/" if uri.startswith("/") else ".")), name


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


def expand(uri: str) -> list[str]:
    """The objects that a file, folder or glob (`*`, `?`, `[`) names, as URIs in order; empty if none."""
    if not any(mark in uri for mark in "*?["):
        store, key = split_uri(uri)
        if store.size(key) is not None:
            return [store.uri(key)]
        folder = open_store(uri)
        return [folder.uri(info.key) for info in folder.list() if not _hidden(info.key)]
    fixed = uri[: min(uri.find(mark) for mark in "*?[" if mark in uri)].rpartition("/")[0]
    store = open_store(fixed or ("/" if uri.startswith("/") else "."))
    pattern = uri[len(fixed) :].lstrip("/")
    return [store.uri(info.key) for info in store.list() if fnmatch.fnmatchcase(info.key, pattern)]


def _hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/"))
