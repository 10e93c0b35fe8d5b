"""Hits to a file, block by block: a TREC run or parquet, whole or not at all.

    .trec, .run   `query Q0 id rank score ccp-ray` a line, as trec_eval reads it; scores with six decimals
    .parquet      query, id, rank, score (float64), lang

Blocks go to a temporary file, which is uploaded when all is written: memory is that of one block, and a run that failed
leaves nothing. TREC's fields are parted by blanks, so an id with a blank is refused there; parquet takes any.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccp_ray.errors import DataError, UsageError
from ccp_ray.storage import TEMPORARY, split_uri

_PARQUET = pa.schema(
    [("query", pa.string()), ("id", pa.string()), ("rank", pa.int32()), ("score", pa.float64()), ("lang", pa.string())]
)


class Written(NamedTuple):
    """How many queries had hits, and the hits."""

    queries: int
    hits: int


def write_run(tables: Iterable[pa.Table], uri: str) -> Written:
    """Write hits (query, rank, id, score, lang) to a URI in the format of its ending.

    Raises UsageError for another ending, DataError for an id that a TREC run cannot hold, StoreError.
    """
    write = run_writer(uri)
    store, key = split_uri(uri)
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        path = Path(scratch, "run")
        written = write(tables, path)
        store.upload(path, key)
    return written


def write_trec(tables: Iterable[pa.Table], path: Path) -> Written:
    """A TREC run in a local file."""
    count = _Count()
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for table in count.through(tables):
            file.writelines(trec_lines(table))
    return count.written


def trec_lines(table: pa.Table) -> Iterable[str]:
    """`query Q0 id rank score run` of each hit. Raises DataError for an id with a blank."""
    for name in ("query", "id"):
        column = table.column(name)
        odd = column.filter(pc.or_(pc.match_substring_regex(column, r"\s"), pc.equal(column, "")))
        if len(odd):
            raise DataError(f"{name} {odd[0].as_py()!r}: a TREC run has no ids with blanks; write .parquet instead")
    columns = (table.column(name).to_pylist() for name in ("query", "id", "rank", "score"))
    return (f"{query} Q0 {hit} {rank} {score:.6f} ccp-ray\n" for query, hit, rank, score in zip(*columns, strict=True))


def _write_parquet(tables: Iterable[pa.Table], path: Path) -> Written:
    count = _Count()
    with pq.ParquetWriter(path, _PARQUET, compression="zstd") as file:
        for table in count.through(tables):
            file.write_table(table.select(_PARQUET.names).cast(_PARQUET))
    return count.written


class _Count:
    """What goes through."""

    def __init__(self) -> None:
        self.written = Written(0, 0)

    def through(self, tables: Iterable[pa.Table]) -> Iterable[pa.Table]:
        for table in tables:
            queries, hits = self.written
            self.written = Written(queries + pc.count_distinct(table.column("query")).as_py(), hits + table.num_rows)
            yield table


def check_place(uri: str) -> None:
    """Raises UsageError for an ending that no run has, StoreError where nothing may be written."""
    run_writer(uri)
    store, _ = split_uri(uri)
    probe = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
    store.write(probe, b"")
    store.delete(probe)


def run_writer(uri: str) -> Callable[[Iterable[pa.Table], Path], Written]:
    """What writes a run of this ending to a local file. Raises UsageError for another ending."""
    if uri.endswith((".trec", ".run")):
        return write_trec
    if uri.endswith(".parquet"):
        return _write_parquet
    raise UsageError(f"{uri}: a run is written as .trec, .run or .parquet; choose one of these endings")
