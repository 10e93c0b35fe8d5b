"""Lines of objects of any size: byte ranges of plain files, and whole compressed files, as a stream.

A byte range owns the lines that *start* in it, so any set of ranges that covers a file yields every line exactly
once. Objects are read in ranges of 4 MiB through the store, wherever they lie. Memory: one range, one line
(of a line longer than 64 MiB only the head is kept) and the decompressor's window, whatever the file's size.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import zstandard

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.storage import absolute_uri, split_uri

CHUNK = 4 << 20
PACKED = (".gz", ".zst")
ROW_LIMIT = 64 << 20
_PACKED = 16 << 10  # unpacks to a megabyte at most, but for text that repeats itself


class SourceFile(StrictModel):
    """An input file. `name` is relative to the input that was named, so it is the same on disk and on S3."""

    uri: str
    name: str
    bytes: int


class RangeReader(io.RawIOBase):
    """A seekable file over an object in a store; every read is one ranged read."""

    def __init__(self, uri: str, size: int) -> None:
        self._store, self._key = split_uri(uri)
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        data = self._store.read(self._key, self._at, length) if length > 0 else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Line(NamedTuple):
    """Bytes [start, stop) of the (unpacked) file, the line end included; `data` is without it."""

    start: int
    stop: int
    data: bytes


def _lines(chunks: Iterator[bytes], offset: int) -> Iterator[Line]:
    """Lines without their ends; of a line longer than ROW_LIMIT only its head is kept."""
    head: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            yield Line(offset, offset + size + len(part) + 1, b"".join([*head, part]))
            offset += size + len(part) + 1
            head, size = [], 0
        if size <= ROW_LIMIT:
            head.append(rest)
        size += len(rest)
    if size:
        yield Line(offset, offset + size, b"".join(head))


def _range_chunks(file: SourceFile, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start`: up to `end` in large reads, then on in small ones for the line that is cut there."""
    store, key = split_uri(file.uri)
    while start < file.bytes:
        length = min(CHUNK, end - start) if start < end else CHUNK // 64
        chunk = store.read(key, start, length)
        if not chunk:
            raise DataError(f"{file.uri}: became shorter while it was read; run again when nothing writes to it")
        yield chunk
        start += len(chunk)


def owned_lines(file: SourceFile, start: int, end: int) -> Iterator[Line]:
    """The lines that start in bytes [start, end)."""
    first = max(0, start - 1)
    lines = _lines(_range_chunks(file, first, end), first)
    if start > 0:
        next(lines, None)  # the line that began in the range before, or the line end just before this range
    for line in lines:
        if line.start < end:
            yield line
        if line.stop >= end:
            return


def source_file(uri: str) -> SourceFile:
    """The file at a URI, by its own name. Raises UsageError where there is none."""
    store, key = split_uri(uri)
    size = store.size(key)
    if size is None:
        raise UsageError(f"{uri}: is a folder, expected a file" if Path(uri).is_dir() else f"{uri}: no such file")
    return SourceFile(uri=absolute_uri(uri), name=key, bytes=size)


def content(file: SourceFile) -> Iterator[bytes]:
    """The whole (unpacked) file in chunks. Raises DataError for a damaged .gz or .zst file."""
    yield from _unpacked_chunks(file) if file.name.endswith(PACKED) else _range_chunks(file, 0, file.bytes)


def whole_lines(file: SourceFile) -> Iterator[Line]:
    """All lines of a file, packed or not. Raises DataError for a damaged .gz or .zst file."""
    return unpacked_lines(file) if file.name.endswith(PACKED) else owned_lines(file, 0, file.bytes)


def unpacked_lines(file: SourceFile) -> Iterator[Line]:
    """All lines of a .gz or .zst file. Raises DataError if it is damaged or cut off."""
    yield from _lines(_unpacked_chunks(file), 0)


def pack_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as gzipped JSON lines, in memory: see `write_packed`."""
    out = io.BytesIO()
    write_packed(out, rows)
    return out.getvalue()


def write_packed(out: IO[bytes], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as gzipped JSON lines as they come; the same rows and zlib give the same bytes on every Python.

    `gzip.compress(data, mtime=0)` does not: from Python 3.11 on its header names the system.
    """
    with gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _unpacked_chunks(file: SourceFile) -> Iterator[bytes]:
    raw = io.BufferedReader(RangeReader(file.uri, file.bytes), CHUNK)
    try:
        yield from _gzip_chunks(raw) if file.name.endswith(".gz") else _zstandard_chunks(raw)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{file.uri}: damaged or cut-off compressed file ({error}); fetch it again") from None


def _gzip_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _zstandard_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    """Frame by frame: the library's own stream reader takes a cut-off file for a shorter one."""
    frame = None
    while data := raw.read(_PACKED):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")
