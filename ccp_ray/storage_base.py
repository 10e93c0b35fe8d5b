"""What every object store offers, wherever its objects lie.

Objects are written whole or not at all, by a rename or by one completed request, and never changed in place. What a
killed writer leaves (a temporary file, an unfinished multipart upload) is no object: `list` hides it, `leftovers`
names it.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TEMPORARY = ".ccp-tmp-"  # names that start so are never listed: writes in flight and probes


def stays_below(key: str) -> bool:
    """Whether a key that someone wrote down leads to a place below its root, as a path does or as an object's name."""
    return bool(key) and not key.startswith("/") and ".." not in key.split("/") and "\0" not in key


class ObjectInfo(NamedTuple):
    """modified: seconds since 1970, by the store's clock, when the object came to be under this key."""

    key: str
    bytes: int
    modified: float


class Leftover(NamedTuple):
    """What a writer that was killed left, or one that is writing now. upload: of an unfinished multipart upload."""

    key: str
    bytes: int
    modified: float
    upload: str = ""


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
        """Write unless the key exists; False if another writer's object is there. Atomic where `conditional_writes`.

        A call whose first try got through while its answer was lost returns True: the object there is its own.
        """

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a local file to the key, atomically, without holding it in memory."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy the object to a local file; the file appears complete or not at all."""

    def copy_in(self, source: Store, source_key: str, key: str) -> None:
        """Copy an object of another store to the key, atomically and as cheaply as the two stores allow.

        Raises FileNotFoundError naming the source, StoreError. Here by way of a local file.
        """
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            self.upload(source.local_path(source_key, Path(scratch), "copy"), key)

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes of the object, or None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in key order."""

    @abstractmethod
    def folders(self, folder: str = "") -> Iterator[str]:
        """Names of the folders directly below a folder, in order; on S3 at a request for 1,000 keys directly there."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error where there is none."""

    @abstractmethod
    def leftovers(self) -> Iterator[Leftover]:
        """What `list` hides below the root: temporary objects and unfinished multipart uploads."""

    @abstractmethod
    def discard(self, leftover: Leftover) -> None:
        """Remove a leftover; no error where it is gone."""

    @abstractmethod
    def conditional_writes(self) -> bool:
        """Whether `write_if_absent` settles races (probed once on S3)."""

    def clock(self) -> float | None:
        """The store's clock, in seconds since 1970, from one small request that reads; None where it does not tell.

        So the store can be reached, and what lies here read, by this process. Raises StoreError where it cannot.
        """
        return None

    def local_path(self, key: str, cache: Path, sha256: str) -> Path:
        """A local file with the object's bytes: the file itself, or a copy under `cache`, kept by its content's sum."""
        target = cache / sha256[:2] / sha256 / Path(key).name
        if not target.exists():
            self.download(key, target)
        return target

    def uri(self, key: str) -> str:
        return f"{self.root}/{key}"
