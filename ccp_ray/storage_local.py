"""The local side of the store: a directory, where a rename is what makes an object appear."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ccp_ray.errors import StoreError
from ccp_ray.storage_base import TEMPORARY, Leftover, ObjectInfo, Store, stays_below


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

    def copy_in(self, source: Store, source_key: str, key: str) -> None:
        """A hard link within a file system: objects are never changed in place, so two names may share the bytes.

        The link counts as new, so that what asks for an object's age never takes a fresh copy for an old leftover.
        """
        with self._explained("write", key), self._temporary(key) as temporary:
            if not isinstance(source, LocalStore):
                source.download(source_key, temporary)
                _sync(temporary)
            elif not _linked(source._file(source_key), temporary):
                shutil.copyfile(source._file(source_key), temporary)
                _sync(temporary)
            temporary.replace(self._file(key))

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
                yield from (info for info in found if info.key.startswith(prefix) and not _is_temporary(info.key))

    def folders(self, folder: str = "") -> Iterator[str]:
        start = self._file(folder)
        with self._explained("list", folder):
            if start.is_dir():
                with os.scandir(start) as found:
                    names = sorted(entry.name for entry in found if entry.is_dir())
                yield from names

    def leftovers(self) -> Iterator[Leftover]:
        with self._explained("list", ""):
            if self.path.is_dir():
                found = _walk(self.path, "", frozenset())
                yield from (Leftover(*info) for info in found if _is_temporary(info.key))

    def discard(self, leftover: Leftover) -> None:
        self.delete(leftover.key)

    def delete(self, key: str) -> None:
        file = self._file(key)
        if not file.parent.resolve().is_relative_to(self.path.resolve()):
            raise StoreError(f"{file}: a symbolic link leads out of {self.root}; nothing is deleted there, remove it")
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
        if key and not stays_below(key):
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


def _linked(source: Path, path: Path) -> bool:
    """Hard-link a file, modified now. False where the two are on different file systems, or links are not allowed."""
    try:
        os.link(os.path.realpath(source), path)
        os.utime(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source)) from None
    except OSError:  # EXDEV, EPERM, EMLINK, …: a copy has the same bytes, or says what is wrong
        path.unlink(missing_ok=True)
        return False
    return True


def _is_temporary(key: str) -> bool:
    return key.rpartition("/")[2].startswith(TEMPORARY)


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
        else:
            try:
                status = entry.stat()
                yield ObjectInfo(prefix + name, status.st_size, status.st_mtime)
            except FileNotFoundError:  # deleted since the folder was read, or a link to nothing
                if entry.is_symlink():
                    raise StoreError(f"{entry.path}: a symbolic link to nothing; remove it") from None
