"""One small object store over local paths and S3-compatible endpoints.

A URI is a local path (`runs/x`, `file:///data/x`) or `s3://bucket/prefix`. A `Store` is rooted at a URI and
knows keys below it. Objects are written whole or not at all: a local write goes to a temporary file that is
renamed, an S3 write is one PUT or one completed multipart upload. Readers never see half an object.

Credentials come from the standard AWS chain (environment, profile, instance role) and the endpoint from
`AWS_ENDPOINT_URL` or the profile; neither is ever part of a configuration, an artifact or a message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from ccp_ray.errors import StoreError, UsageError

TEMPORARY = ".ccp-tmp-"  # names that start so are never listed: writes in flight and probes


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

    def local_path(self, key: str, cache: Path, sha256: str) -> Path:
        """A local file with the object's bytes: the file itself, or a copy under `cache`, kept by its content's sum."""
        target = cache / sha256[:2] / sha256 / Path(key).name
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
        self._made_root = False

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._explained("read", key), open(self._file(key), "rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def write(self, key: str, data: bytes) -> None:
        with self._explained("write", key), self._temporary(key) as temporary:
            _write_synced(temporary, data)
            temporary.replace(self._file(key))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        with self._explained("write", key), self._temporary(key) as temporary:
            _write_synced(temporary, data)
            try:
                os.link(temporary, self._file(key))
            except FileExistsError:
                return False
            return True

    def upload(self, path: Path, key: str) -> None:
        with self._explained("write", key), self._temporary(key) as temporary:
            shutil.copyfile(path, temporary)
            _sync(temporary)
            temporary.replace(self._file(key))

    def download(self, key: str, path: Path) -> None:
        with self._explained("read", key):
            LocalStore(path.parent).upload(self._file(key), path.name)

    def local_path(self, key: str, cache: Path, sha256: str) -> Path:  # noqa: ARG002
        return self._file(key)

    def size(self, key: str) -> int | None:
        file = self._file(key)
        with self._explained("read", key):
            return file.stat().st_size if file.is_file() else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = prefix.rpartition("/")[0]
        start = self._file(folder)
        with self._explained("list", folder):
            if start.is_dir():
                found = _walk(start, f"{folder}/" if folder else "", frozenset())
                yield from (info for info in found if info.key.startswith(prefix))

    def delete(self, key: str) -> None:
        file = self._file(key)
        with self._explained("delete", key):
            file.unlink(missing_ok=True)
        for parent in file.parents:  # an empty folder is not an object; another writer's file in it stops the removal
            if parent == (self.path.parent if self._made_root else self.path):
                break  # a root that was there before this store wrote to it stays
            try:
                parent.rmdir()
            except OSError:
                break

    def conditional_writes(self) -> bool:
        return True

    def _file(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise StoreError(f"{key!r}: a key must stay below {self.root}")
        return self.path / key

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        """A name beside the object that is gone at the end, however that comes."""
        folder = self._file(key).parent
        self._made_root = self._made_root or not self.path.exists()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _explained(self, verb: str, key: str) -> _Explained:
        return _Explained(verb, self.uri(key))


class _Explained:
    """Turns an OSError into a StoreError that says what to do; a missing file stays FileNotFoundError."""

    _HINTS = {  # noqa: RUF012
        errno.ENOSPC: "the disk is full; free space and run again, finished work is kept",
        errno.EDQUOT: "the disk quota is used up; free space and run again, finished work is kept",
        errno.EACCES: "permission denied; check the owner and mode of the folder",
        errno.EPERM: "not permitted; check the owner of the folder, and that its file system has hard links",
        errno.EROFS: "the file system is read-only; choose another --output",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EEXIST: "a part of the path is a file, not a folder",
        errno.EISDIR: "it is a folder, expected a file",
        errno.EFBIG: "the file would exceed the size limit of this process or file system",
    }

    def __init__(self, verb: str, uri: str) -> None:
        self.verb, self.uri = verb, uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.verb == "read" and isinstance(error, NotADirectoryError):
            raise FileNotFoundError(self.uri) from error  # nothing lies below a file, as on S3
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            hint = self._HINTS.get(error.errno or 0, error.strerror or str(error))
            raise StoreError(f"cannot {self.verb} {self.uri}: {hint}") from error


def storage_full(error: OSError) -> StoreError | None:
    """What to say of an OSError outside a store (a temporary file, say) that is for the user to mend; else None."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return None
    return StoreError(f"cannot write {error.filename or 'a temporary file'}: {_Explained._HINTS[error.errno]}")


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Force the bytes to the disk: after a power cut a renamed file must not be an empty one."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[ObjectInfo]:
    """Files below a folder in key order. Links are followed; one that leads back up or nowhere is an error."""
    real = os.path.realpath(folder)
    if real in above:
        raise StoreError(f"{folder}: a symbolic link leads back to a folder above it; remove the link")
    with os.scandir(folder) as found:
        entries = [(entry.name + ("/" if entry.is_dir() else ""), entry) for entry in found]
    for name, entry in sorted(entries, key=lambda pair: pair[0]):
        if name.endswith("/"):
            yield from _walk(Path(entry.path), prefix + name, above | {real})
        elif not name.startswith(TEMPORARY):
            try:
                yield ObjectInfo(prefix + name, entry.stat().st_size)
            except FileNotFoundError:  # deleted since the folder was read, or a link to nothing
                if entry.is_symlink():
                    raise StoreError(f"{entry.path}: a symbolic link to nothing; remove it") from None


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
    if not bucket:
        raise UsageError(f"{uri}: expected s3://bucket/prefix")
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
