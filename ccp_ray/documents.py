"""Find input files, plan how tasks share them, and fingerprint them.

An input is a file, a folder or a glob, on disk or on `s3://`, or a finished `documents` artifact. Formats go by
name: JSON lines (`.jsonl`, `.json`) and passages (`.tsv`: id, text, title), each plain, `.gz` or `.zst`; `.parquet`;
and `LANG/ID.txt`, where the folder's name is the language and the file's name the document's id.

The fingerprint is the sha256 over each file's relative name, size, first 64 KiB and last 64 KiB. It is the same on
disk and on S3 and costs three small requests a file, so a terabyte is checked in seconds; the price is that a
change inside a file larger than 128 KiB that keeps its size is not noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa

from ccp_ray.artifact import JOB, digest_json, find_artifact
from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import PACKED, SourceFile
from ccp_ray.patterns import expand
from ccp_ray.records import Split, open_parquet
from ccp_ray.storage import absolute_uri, open_store, split_uri

SPLIT_BYTES = 64 << 20
_Format = Literal["jsonl", "tsv", "parquet", "text"]
_SUFFIXES: dict[str, _Format] = {
    **{f"{name}{pack}": "jsonl" for name in (".jsonl", ".json") for pack in ("", *PACKED)},
    **{f".tsv{pack}": "tsv" for pack in ("", *PACKED)},
    ".parquet": "parquet",
    ".txt": "text",
}
_ENDS = 64 << 10
_GROUP_BYTES, _GROUP_FILES = 8 << 20, 1000
_REQUESTS = 16


def find_documents(inputs: Sequence[str]) -> list[SourceFile]:
    """The files that the inputs name, in order of their relative names; a file named twice counts once.

    Raises UsageError for an input that does not exist or has an unknown format, DataError if all is empty.
    """
    if not inputs:
        raise UsageError("no documents were named; give files, folders or globs")
    names: dict[str, str] = {}
    taken: set[str] = set()
    for number, uri in enumerate(inputs):
        for file, name in _named_files(uri):
            if file not in names:
                names[file] = f"{number}/{name}" if name in taken else name
                taken.add(names[file])
    for uri in names:
        _format(uri)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        sizes = pool.map(_size, names)
        files = [SourceFile(uri=uri, name=names[uri], bytes=size) for uri, size in zip(names, sizes, strict=True)]
    if not any(file.bytes for file in files):
        raise DataError(f"{inputs[0]}: empty ({len(files)} files of 0 bytes)")
    return sorted(files, key=lambda file: file.name)


def plan_splits(files: Sequence[SourceFile], split_bytes: int = SPLIT_BYTES) -> list[Split]:
    """What each task reads, in file order: a function of the files' names and sizes alone."""
    splits: list[Split] = []
    group: list[SourceFile] = []
    for file in files:
        kind = _format(file.uri)
        if kind == "text":
            if group and (len(group) == _GROUP_FILES or sum(f.bytes for f in group) + file.bytes > _GROUP_BYTES):
                splits.append(Split(format="text", files=group))
                group = []
            group.append(file)
        elif kind == "parquet":
            splits += [Split(format="parquet", files=[file], start=a, end=b) for a, b in _row_groups(file, split_bytes)]
        elif file.name.endswith(PACKED):
            splits.append(Split(format=kind, files=[file]))
        else:
            starts = range(0, file.bytes, split_bytes)
            splits += [
                Split(format=kind, files=[file], start=start, end=min(start + split_bytes, file.bytes))
                for start in starts
            ]
    return splits + ([Split(format="text", files=group)] if group else [])


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Digest of names, sizes and ends of the files (see the module's head for what it cannot see)."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return digest_json(sorted(pool.map(_file_digest, files)))


def _named_files(uri: str) -> Iterator[tuple[str, str]]:
    """(absolute URI, relative name) of each file that an input names."""
    fixed = uri
    if any(mark in uri for mark in "*?["):
        fixed = uri[: min(uri.find(mark) for mark in "*?[" if mark in uri)].rpartition("/")[0]
        fixed = fixed or ("/" if uri.startswith("/") else ".")
    else:
        store, key = split_uri(uri)
        if store.size(key) is not None:
            fixed = store.root
        else:
            uri = fixed = _documents_folder(uri)
    files = expand(uri)
    if not files:
        raise UsageError(f"{uri}: no such file, or a folder or pattern without files")
    root = absolute_uri(fixed).rstrip("/")
    for file in files:
        name = file[len(root) + 1 :]
        yield file, name if "/" in name or not name.endswith(".txt") else "/".join(file.split("/")[-2:])


def _documents_folder(uri: str) -> str:
    """The folder to read: that of the documents where the URI is a `documents` artifact."""
    artifact = find_artifact(uri)
    if artifact is None:
        if open_store(uri).size(JOB) is not None:
            raise UsageError(f"{uri}: is unfinished; run its job again")
        return uri
    if artifact.kind != "documents":
        raise UsageError(f"{uri}: holds a {artifact.kind} artifact, expected documents")
    return f"{uri.rstrip('/')}/documents"


def _format(uri: str) -> _Format:
    for suffix, kind in _SUFFIXES.items():
        if uri.endswith(suffix):
            return kind
    raise UsageError(
        f"{uri}: unknown format; expected .jsonl or .json (plain, .gz, .zst), .parquet or LANG/*.txt, "
        "or .tsv of passages. Name the files with a glob to leave others out"
    )


def _size(uri: str) -> int:
    store, key = split_uri(uri)
    size = store.size(key)
    if size is None:
        raise UsageError(f"{uri}: vanished while the inputs were listed")
    return size


def _row_groups(file: SourceFile, split_bytes: int) -> Iterator[tuple[int, int | None]]:
    if file.bytes <= split_bytes:
        yield 0, None
        return
    try:
        metadata = open_parquet(file).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.uri}: damaged parquet file, or not parquet ({str(error).splitlines()[0]})") from None
    start = size = 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= split_bytes or group == metadata.num_row_groups - 1:
            yield start, group + 1
            start, size = group + 1, 0


def _file_digest(file: SourceFile) -> str:
    store, key = split_uri(file.uri)
    digest = hashlib.sha256(f"{file.name}\0{file.bytes}\0".encode())
    digest.update(store.read(key, 0, min(_ENDS, file.bytes)))
    tail = max(_ENDS, file.bytes - _ENDS)
    if tail < file.bytes:
        digest.update(store.read(key, tail, file.bytes - tail))
    return digest.hexdigest()
