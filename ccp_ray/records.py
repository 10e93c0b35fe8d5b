"""Read rows of JSON lines, TSV, parquet and text files as a stream: good rows, and bad rows with a reason.

A *split* is what one task reads: a byte range of a plain file of lines, a whole compressed file, a range of
row groups of a parquet file, or a group of text files. All are read as streams, so memory does not grow with the
file. How a line of passages is understood is in `passages`. A row that cannot be used never ends the run here: it
comes out as a `BadRow`, and `check_bad_rows` decides when there are too many.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError
from ccp_ray.lines import PACKED, ROW_LIMIT, RangeReader, SourceFile, owned_lines, unpacked_lines
from ccp_ray.passages import parse_passage, with_text
from ccp_ray.storage import split_uri

FREE_BAD_ROWS = 10
DOCUMENT = ("id", "lang", "text")
"""Columns that a document must have; embedding asks only for ("id", "text") and gets `lang` "und"."""

_OPTIONAL = ("title", "split")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*")
_SAMPLE = 200
_Parsed = Mapping[str, Any] | str | None


class Split(StrictModel):
    """What one task reads: bytes [start, end) of lines, row groups [start, end) of parquet, or whole files."""

    format: Literal["jsonl", "tsv", "parquet", "text"]
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
    if split.format in ("jsonl", "tsv"):
        yield from _read_lines(split, required)
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


def _read_lines(split: Split, required: Collection[str]) -> Iterator[Record | BadRow]:
    file = split.files[0]
    parse = _parse_json if split.format == "jsonl" else _parse_tabs
    packed = file.name.endswith(PACKED)
    end = file.bytes if split.end is None else split.end
    lines = unpacked_lines(file) if packed else owned_lines(file, split.start, end)
    for number, line in enumerate(lines, 1):
        data = line.data.removeprefix(b"\xef\xbb\xbf") if line.start == 0 else line.data
        if data.strip():
            row = f"byte {line.start}" if split.start else f"line {number}"
            fields = _parse(data, line.stop - line.start, parse)
            checked = (
                fields if fields is None or isinstance(fields, str) else _validate(fields, file.name, row, required)
            )
            if isinstance(checked, str):
                sample = data[: 4 * _SAMPLE].decode("utf-8", "replace")[:_SAMPLE].rstrip("\r")
                yield BadRow(file.name, row, checked, sample)
            elif checked is not None:
                yield checked


def _parse(data: bytes, size: int, parse: Callable[[str], _Parsed]) -> _Parsed:
    """The fields of a line, what is wrong with it, or None for a line that is no row."""
    if size > ROW_LIMIT + 1:
        return f"longer than {ROW_LIMIT >> 20} MiB"
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start} of the line)"


def _parse_tabs(line: str) -> _Parsed:
    return parse_passage(line.rstrip("\r"))


def _parse_json(line: str) -> _Parsed:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON, expected one object a line ({error.msg} at character {error.pos})"
    except (ValueError, RecursionError) as error:
        return f"not JSON that can be read ({error})"
    return with_text(fields) if isinstance(fields, dict) else f"a JSON {type(fields).__name__}, expected an object"


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
