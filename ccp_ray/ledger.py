"""The ledger: which pieces of a plan are committed.

A piece's files are written first, under keys that only this piece uses; its ledger entry (rows, files with
sha256) is written last and is the commit. A piece without an entry does not exist, whatever files lie there,
so a killed job loses at most the pieces in flight and computes nothing twice. Where the store settles races
(`write_if_absent`) the first of two writers wins; elsewhere the last. Both are whole either way: what is not the same
on every machine (vectors, say) lies under a key that its content names (`put_content`), so no writer overwrites what
another's entry lists.

Cost: one small object a piece; knowing what is left is one listing (1,000 keys a request on S3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ccp_ray.config import StrictModel
from ccp_ray.errors import DamagedError
from ccp_ray.storage import LocalStore, Store
from ccp_ray.storage_base import stays_below

_CHUNK = 8 << 20
_FETCHES = 2


class FileRecord(StrictModel):
    """One object of an artifact. Whoever wrote it, it leads to nothing outside: both become paths where it is read."""

    path: str
    bytes: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    measured: bool = Field(default=False, description="holds times or speeds: verified, but no part of the fingerprint")

    @field_validator("path")
    @classmethod
    def _stays_below(cls, path: str) -> str:
        if not stays_below(path):
            raise ValueError("must stay below the artifact's folder")
        return path


class Entry(StrictModel):
    """The commit of one piece: what it holds and what was put aside."""

    rows: int = 0
    quarantined: int = 0
    files: list[FileRecord] = Field(default_factory=list)
    info: dict[str, Any] = Field(default_factory=dict)


class Ledger:
    """Commits of one output, under `folder` in its store."""

    def __init__(self, store: Store, folder: str = "_ledger") -> None:
        self.store, self.folder = store, folder

    def commit(self, piece: str, entry: Entry) -> bool:
        """Make the piece exist. False if another writer did so before: its entry stands."""
        return self.store.write_if_absent(self._key(piece), entry.model_dump_json().encode())

    def committed(self) -> set[str]:
        """Names of the committed pieces, from one listing."""
        return set(self.times())

    def times(self) -> dict[str, float]:
        """When each committed piece was (seconds since 1970, by the store's clock), from one listing."""
        cut = len(self.folder) + 1
        found = ((info.key[cut:], info.modified) for info in self.store.list(f"{self.folder}/"))
        return {name.removesuffix(".json"): when for name, when in found if name.endswith(".json")}

    def has(self, piece: str) -> bool:
        """Whether the piece is committed: one small request."""
        return self.store.size(self._key(piece)) is not None

    def read(self, piece: str) -> Entry:
        """The entry of a committed piece. Raises DamagedError if it is missing or cannot be read as one."""
        try:
            return Entry.model_validate_json(self.store.read(self._key(piece)))
        except FileNotFoundError:
            raise DamagedError(f"{self.store.uri(self._key(piece))}: the piece is not committed") from None
        except ValueError:
            raise DamagedError(
                f"{self.store.uri(self._key(piece))}: damaged ledger entry; delete this object and run the job again"
            ) from None

    def entries(self, among: Container[str] | None = None) -> dict[str, Entry]:
        """The entries by piece (only those `among` these names), in name order; read 16 at a time."""
        names = sorted(name for name in self.committed() if among is None or name in among)
        with ThreadPoolExecutor(16) as pool:
            return dict(zip(names, pool.map(self.read, names), strict=True))

    def retract(self, piece: str) -> None:
        """Undo a commit; the piece's files are the caller's to delete, afterwards."""
        self.store.delete(self._key(piece))

    def _key(self, piece: str) -> str:
        return f"{self.folder}/{piece}.json"


def put_bytes(store: Store, key: str, data: bytes) -> FileRecord:
    """Write an object and return its record."""
    store.write(key, data)
    return FileRecord(path=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def put_content(store: Store, prefix: str, suffix: str, data: bytes) -> FileRecord:
    """Write an object under PREFIX.DIGEST.SUFFIX, where the digest is its content's, and return its record."""
    return put_bytes(store, f"{prefix}.{hashlib.sha256(data).hexdigest()[:12]}.{suffix}", data)


def put_file(store: Store, key: str, path: Path) -> FileRecord:
    """Upload a local file and return its record."""
    return _put_hashed(store, key, path, _file_digest(path))


def put_content_file(store: Store, prefix: str, path: Path) -> FileRecord:
    """Upload a local file under PREFIX.DIGEST.SUFFIX, as `put_content` does with bytes; the suffix is the file's."""
    digest = _file_digest(path)  # once: a gigabyte is most of a second
    return _put_hashed(store, f"{prefix}.{digest[:12]}{path.suffix}", path, digest)


def _put_hashed(store: Store, key: str, path: Path, digest: str) -> FileRecord:
    record = FileRecord(path=key, bytes=path.stat().st_size, sha256=digest)
    store.upload(path, key)
    return record


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def put_folder(store: Store, folder: Path, prefix: str = "") -> list[FileRecord]:
    """Upload every file below a local folder, in name order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [put_file(store, f"{prefix}{path.relative_to(folder).as_posix()}", path) for path in paths]


def verified_copy(store: Store, record: FileRecord, cache: Path) -> Path:
    """`sound_copy` of an artifact's file: the DamagedError names the object, and says what to do."""
    try:
        return sound_copy(store, record, cache)
    except DamagedError as error:
        raise DamagedError(
            f"{store.uri(record.path)}: altered or damaged ({error}); make this artifact again"
        ) from None


def sound_copy(store: Store, record: FileRecord, cache: Path) -> Path:
    """A local file with the object's bytes (the file itself, or a copy below `cache`), hashed against its record.

    A copy that differs is fetched once more: it may have been damaged on the way, or in the cache. Raises DamagedError
    saying what is wrong if the object is missing or the bytes still differ. Cost: about a second a gigabyte.
    """
    problem = ""
    for _ in range(_FETCHES):
        try:
            path = store.local_path(record.path, cache, record.sha256)
        except FileNotFoundError:
            raise DamagedError(f"{store.uri(record.path)}: missing") from None
        problem = check_file(LocalStore(path.parent), record.model_copy(update={"path": path.name})) or ""
        if not problem:
            return path
        if not path.is_relative_to(cache):
            break
        path.unlink()
    raise DamagedError(problem)


def copy_verified(source: Store, target: Store, record: FileRecord, option: str) -> None:
    """Copy an object between stores after hashing it. Raises DamagedError that names it and the option it came by."""
    problem = check_file(source, record)
    if problem:
        raise DamagedError(f"{problem}; leave {source.root} out of {option}, or make it again")
    target.copy_in(source, record.path, record.path)


def check_file(store: Store, record: FileRecord) -> str | None:
    """Re-hash an object against its record. Returns what is wrong, or None."""
    size = store.size(record.path)
    if size is None:
        return f"{store.uri(record.path)}: missing"
    if size != record.bytes:
        return f"{store.uri(record.path)}: {size} bytes, expected {record.bytes}"
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        digest.update(store.read(record.path, start, _CHUNK))
    if digest.hexdigest() != record.sha256:
        found, recorded = digest.hexdigest()[:12], record.sha256[:12]
        return f"{store.uri(record.path)}: checksum does not match (sha256 {found}…, recorded {recorded}…)"
    return None
