"""Read rows of JSON lines, parquet and text files as a stream: good rows, and bad rows with a reason.

A *split* is what one task reads: a byte range of a plain JSON-lines file, a whole compressed file, a range of
row groups of a parquet file, or a group of text files. A byte range owns the lines that *start* in it, so any
set of ranges that covers a file yields every line exactly once. Objects are read in ranges of 4 MiB, through
the store, wherever they lie.

Memory: one range, one line (at most 64 MiB; a longer one is a bad row) and the decompressor's window,
whatever the file's size. A row that cannot be used never ends the run here: it comes out as a `BadRow`, and
`check_bad_rows` decides when there are too many.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError
from ccp_ray.storage import split_uri

CHUNK = 4 << 20
ROW_LIMIT = 64 << 20
FREE_BAD_ROWS = 10
DOCUMENT = ("id", "lang", "text")
"""Columns that a document must have; embedding asks only for ("id", "text") and gets `lang` "und"."""

_OPTIONAL = ("title", "split")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*")
_SAMPLE = 200


class SourceFile(StrictModel):
    """An input file. `name` is relative to the input that was named, so it is the same on disk and on S3."""

    uri: str
    name: str
    bytes: int


class Split(StrictModel):
    """What one task reads: bytes [start, end) of JSON lines, row groups [start, end) of parquet, or whole files."""

    format: Literal["jsonl", "parquet", "text"]
    files: list[SourceFile]
    start: int = 0
    end: int | None = None


class Record(NamedTuple):
    """A valid row. `source` and `row` say where it stood ("line 3", "byte 1024", "row 7", "file")."""

    id: str
    lang: str
    text: str
    title: str | None
    split: Literal["train", "dev"] | None
    source: str
    row: str


class BadRow(NamedTuple):
    """A row that cannot be used; what goes to quarantine."""

    source: str
    row: str
    reason: str
    sample: str


def read_split(split: Split, required: Collection[str] = DOCUMENT) -> Iterator[Record | BadRow]:
    """All rows of a split, in file order. Raises DataError for a file that is damaged as a whole, StoreError."""
    if split.format == "jsonl":
        yield from _read_json_lines(split, required)
    elif split.format == "parquet":
        yield from _read_parquet(split, required)
    else:
        for file in split.files:
            yield _read_text(file)


def check_bad_rows(bad: int, total: int, max_share: float, first: BadRow | None) -> None:
    """Raises DataError when more than 10 rows and more than `max_share` of all are bad."""
    if first is not None and bad > FREE_BAD_ROWS and bad > max_share * total:
        raise DataError(
            f"{bad:,} of {total:,} rows cannot be used, more than max_bad_share ({max_share:.2%}); "
            f"the first is {first.source}, {first.row}: {first.reason}. Repair the input, or raise max_bad_share"
        )


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


class _Line(NamedTuple):
    start: int
    stop: int
    data: bytes


def _lines(chunks: Iterator[bytes], offset: int) -> Iterator[_Line]:
    """Lines without their ends; of a line longer than ROW_LIMIT only its head is kept."""
    head: list[bytes] = []
    size = 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            yield _Line(offset, offset + size + len(part) + 1, b"".join([*head, part]))
            offset += size + len(part) + 1
            head, size = [], 0
        if size <= ROW_LIMIT:
            head.append(rest)
        size += len(rest)
    if size:
        yield _Line(offset, offset + size, b"".join(head))


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


def _owned_lines(file: SourceFile, start: int, end: int) -> Iterator[_Line]:
    first = max(0, start - 1)
    lines = _lines(_range_chunks(file, first, end), first)
    if start > 0:
        next(lines, None)  # the line that began in the range before, or the line end just before this range
    for line in lines:
        if line.start < end:
            yield line
        if line.stop >= end:
            return


def _unpacked_chunks(file: SourceFile) -> Iterator[bytes]:
    raw = io.BufferedReader(RangeReader(file.uri, file.bytes), CHUNK)
    try:
        opened = (
            gzip.GzipFile(fileobj=raw)
            if file.name.endswith(".gz")
            else zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        )
        while chunk := opened.read(CHUNK):
            yield chunk
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{file.uri}: damaged or cut-off compressed file ({error}); fetch it again") from None


def _read_json_lines(split: Split, required: Collection[str]) -> Iterator[Record | BadRow]:
    file = split.files[0]
    packed = file.name.endswith((".gz", ".zst"))
    end = file.bytes if split.end is None else split.end
    lines = _lines(_unpacked_chunks(file), 0) if packed else _owned_lines(file, split.start, end)
    for number, line in enumerate(lines, 1):
        data = line.data.removeprefix(b"\xef\xbb\xbf") if line.start == 0 else line.data
        if data.strip():
            row = f"byte {line.start}" if split.start else f"line {number}"
            yield _from_json(data, line.stop - line.start, file.name, row, required)


def _from_json(data: bytes, size: int, source: str, row: str, required: Collection[str]) -> Record | BadRow:
    def bad(reason: str) -> BadRow:
        return BadRow(source, row, reason, data[: 4 * _SAMPLE].decode("utf-8", "replace")[:_SAMPLE].rstrip("\r"))

    if size > ROW_LIMIT + 1:
        return bad(f"longer than {ROW_LIMIT >> 20} MiB")
    try:
        fields = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return bad(f"not UTF-8 (byte {error.start} of the line)")
    except json.JSONDecodeError as error:
        return bad(f"not JSON, expected one object a line ({error.msg} at character {error.pos})")
    except (ValueError, RecursionError) as error:
        return bad(f"not JSON that can be read ({error})")
    if not isinstance(fields, dict):
        return bad(f"a JSON {type(fields).__name__}, expected an object")
    checked = _validate(fields, source, row, required)
    return bad(checked) if isinstance(checked, str) else checked


def _validate(fields: Mapping[str, Any], source: str, row: str, required: Collection[str]) -> Record | str:
    """The record, or what is wrong with the row."""
    for name in (*DOCUMENT, *_OPTIONAL):
        value = fields.get(name)
        if value is None:
            if name in required:
                return f'no "{name}"'
            continue
        if not isinstance(value, str):
            return f'"{name}" is {type(value).__name__}, expected a string'
        if name in DOCUMENT and not value.strip():
            return f'"{name}" is empty'
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return f'"{name}" is not valid Unicode (a lone surrogate)'
    lang, split = fields.get("lang") or "und", fields.get("split")
    if not _LANGUAGE.fullmatch(lang):
        return f'"lang" is {lang[:20]!r}, expected a code like "de" or "pt-BR"'
    if split not in (None, "train", "dev"):
        return f'"split" is {split[:20]!r}, expected "train" or "dev"'
    return Record(fields["id"], lang, fields["text"], fields.get("title"), split, source, row)


def _read_parquet(split: Split, required: Collection[str]) -> Iterator[Record | BadRow]:
    file = split.files[0]
    try:
        table = open_parquet(file)
        names = table.schema_arrow.names
        columns = [name for name in (*DOCUMENT, *_OPTIONAL) if name in names]
        for name in required:
            if name not in names:
                raise DataError(f"{file.uri}: no column {name!r} (found {', '.join(names)})")
        end = table.num_row_groups if split.end is None else split.end
        number = sum(table.metadata.row_group(i).num_rows for i in range(split.start))
        groups = list(range(split.start, end))
        for batch in table.iter_batches(batch_size=1024, row_groups=groups, columns=columns):
            for row in zip(*(_cells(batch.column(name)) for name in columns), strict=True):
                yield _from_cells(dict(zip(columns, row, strict=True)), file.name, f"row {number}", required)
                number += 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{file.uri}: damaged parquet file, or not parquet ({str(error).splitlines()[0]})") from None


def open_parquet(file: SourceFile) -> pq.ParquetFile:
    """The file's footer; column chunks are then streamed in buffers of 1 MiB, not loaded whole."""
    return pq.ParquetFile(RangeReader(file.uri, file.bytes), buffer_size=1 << 20, pre_buffer=False)


def _cells(column: pa.Array) -> list[Any]:
    try:
        return cast("list[Any]", column.to_pylist())
    except UnicodeDecodeError:  # parquet does not check; only the broken cells are set aside
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return bytes(error.object)


def _from_cells(fields: dict[str, Any], source: str, row: str, required: Collection[str]) -> Record | BadRow:
    broken = next((name for name, value in fields.items() if isinstance(value, bytes)), None)
    checked = f'"{broken}" is not UTF-8 text' if broken else _validate(fields, source, row, required)
    if isinstance(checked, Record):
        return checked
    return BadRow(source, row, checked, json.dumps(fields, default=repr)[:_SAMPLE])


def _read_text(file: SourceFile) -> Record | BadRow:
    """A text file as one document: LANG/ID.txt."""
    folder, _, name = file.name.rpartition("/")
    if file.bytes > ROW_LIMIT:
        return BadRow(file.name, "file", f"a document longer than {ROW_LIMIT >> 20} MiB; cut it up", "")
    store, key = split_uri(file.uri)
    data = store.read(key)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return BadRow(file.name, "file", f"not UTF-8 (byte {error.start})", data[:_SAMPLE].decode("utf-8", "replace"))
    fields = {"id": name.removesuffix(".txt"), "lang": folder.rpartition("/")[2], "text": text}
    checked = _validate(fields, file.name, "file", DOCUMENT)
    return checked if isinstance(checked, Record) else BadRow(file.name, "file", checked, text[:_SAMPLE])
