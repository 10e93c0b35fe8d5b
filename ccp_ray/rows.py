"""Rows to embed that are not a corpus: JSON lines or parquet with `id` and `text`, taken as they are, and passages.

Passages are read in the formats they are distributed in (`ccp_ray.passages`), so no copy of 18 million has to be made.

A first pass streams the files once, with the reader of `prepare`, into parquet parts of `piece_rows` rows below the
output (`_rows/`), so that every piece to embed is a fixed range of rows whatever format and size the files had.
The parts are working files, no part of the artifact; they cost about the size of the compressed texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ccp_ray.artifact import InputRef, Output, find_artifact
from ccp_ray.documents import find_documents, fingerprint, plan_splits
from ccp_ray.ledger import Entry, FileRecord, put_bytes
from ccp_ray.passages import joined
from ccp_ray.pieces import run_pieces
from ccp_ray.records import BadRow, Record, Split, check_bad_rows, read_split
from ccp_ray.sentences import Quarantine, table_bytes
from ccp_ray.storage import Store, absolute_uri, open_store

_REQUIRED = ("id", "text")


class ImportedPart(NamedTuple):
    """A parquet object of rows id, lang, text."""

    name: str
    key: str
    rows: int
    sha256: str


class Imported(NamedTuple):
    """What the first pass left: parts in order, rows put aside, and the files that list them."""

    parts: list[ImportedPart]
    quarantined: int
    files: list[FileRecord]


def texts_reference(texts: str) -> InputRef:
    """The texts as an input: a corpus by its fingerprint, files by theirs."""
    artifact = find_artifact(texts)
    if artifact is not None and artifact.kind == "corpus":
        return artifact.ref("texts")
    return InputRef(role="texts", uri=absolute_uri(texts), fingerprint=fingerprint(find_documents([texts])))


def import_rows(texts: str, output: Output, piece_rows: int, max_bad_share: float) -> Imported:
    """Stream the files into parts. Raises DataError when too many rows are bad."""
    splits = plan_splits(find_documents([texts]))
    job = {"output": output.uri, "rows": piece_rows}
    plan = {f"{number:05d}": job | {"split": split.model_dump_json()} for number, split in enumerate(splits)}
    entries = run_pieces(output, "rows", plan, _import_split)
    parts = [ImportedPart(**part) for entry in entries.values() for part in entry.info["parts"]]
    bad = sum(entry.quarantined for entry in entries.values())
    first = next((BadRow(**e.info["first_bad"]) for e in entries.values() if e.info["first_bad"]), None)
    check_bad_rows(bad, bad + sum(part.rows for part in parts), max_bad_share, first)
    return Imported(parts, bad, [record for entry in entries.values() for record in entry.files])


def _import_split(name: str, job: dict[str, Any]) -> Entry:
    store = open_store(job["output"])
    parts: list[ImportedPart] = []
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        quarantine = Quarantine(Path(scratch, "quarantine.jsonl"))
        split = Split.model_validate_json(job["split"])
        titled = split.format == "tsv"
        for rows in _chunks(read_split(split, _REQUIRED), quarantine, job["rows"], titled):
            parts.append(_write(store, f"{name}-{len(parts):04d}", rows))
        files = quarantine.put(job["output"], f"quarantine/{name}.jsonl")
    info = {
        "parts": [part._asdict() for part in parts],
        "first_bad": quarantine.first._asdict() if quarantine.first else None,
    }
    return Entry(rows=sum(part.rows for part in parts), quarantined=quarantine.rows, files=files, info=info)


def _chunks(
    records: Iterator[Record | BadRow], quarantine: Quarantine, size: int, titled: bool
) -> Iterator[list[dict[str, str]]]:
    """Rows in lots of `size`. titled: the text to encode begins with the title."""
    rows: list[dict[str, str]] = []
    for record in records:
        if isinstance(record, BadRow):
            quarantine.add(record)
            continue
        text = joined(record.title, record.text) if titled else record.text
        rows.append({"id": record.id, "lang": record.lang, "text": text})
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows


def _write(store: Store, name: str, rows: list[dict[str, str]]) -> ImportedPart:
    schema = pa.schema([("id", pa.string()), ("lang", pa.string()), ("text", pa.string())])
    record = put_bytes(store, f"_rows/{name}.parquet", table_bytes(pa.Table.from_pylist(rows, schema)))
    return ImportedPart(name, record.path, len(rows), record.sha256)
