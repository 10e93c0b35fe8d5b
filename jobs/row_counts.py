"""How many rows input files hold, for plans: exactly where they are small, by their first part where they are large.

A file of lines is read up to 64 MiB as stored (all files of a collection together), which takes a second; what lies
beyond is taken for the same. Parquet says its rows. Where a packed file is cut like this, up to 4 MiB of what was
unpacked of it are lost: of 64 MiB of text that packs to a third, 2 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from ccp_ray.documents import find_documents
from ccp_ray.errors import DataError
from ccp_ray.lines import SourceFile, content
from ccp_ray.records import open_parquet

READ_BYTES = 64 << 20  # as stored
_LEAST = 16 << 20  # of a file that is not read whole
_BYTES_A_TOKEN = 5.0  # of stored JSON or TSV: a word and a quarter of Latin script, less of others


class Rows(NamedTuple):
    """`bytes` of them, unpacked; of parquet as its columns take."""

    rows: int
    bytes: int
    exact: bool

    @property
    def told(self) -> str:
        return f"{'' if self.exact else 'about '}{self.rows:,}"

    def tokens(self, most: int) -> float:
        """Of one row on average, as a tokenizer may see it."""
        return min(most, max(1.0, self.bytes / max(self.rows, 1) / _BYTES_A_TOKEN))


def count_rows(uri: str) -> Rows:
    """Of a file, folder or glob of rows, as `embed` reads them.

    Raises UsageError where nothing is there, DataError where all is empty or a file is damaged.
    """
    files = find_documents([uri])
    tables = [file for file in files if file.name.endswith(".parquet")]
    lines = [file for file in files if not file.name.endswith(".parquet")]
    found = [_table(file) for file in tables] + ([_lines(lines)] if lines else [])
    return Rows(sum(one.rows for one in found), sum(one.bytes for one in found), all(one.exact for one in found))


def head(file: SourceFile, stored: int) -> Iterator[bytes]:
    """The unpacked content of the first `stored` bytes of a file. Raises DataError for one that is damaged there."""
    if stored >= file.bytes:
        yield from content(file)
        return
    unpacked = False
    try:
        for chunk in content(file.model_copy(update={"bytes": stored})):
            unpacked = True
            yield chunk
    except DataError:  # a packed file ends too early where it is cut; nothing at all means that it is no such file
        if not unpacked:
            raise


def _table(file: SourceFile) -> Rows:
    try:
        metadata = open_parquet(file).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.uri}: damaged parquet file, or not parquet ({str(error).splitlines()[0]})") from None
    size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return Rows(metadata.num_rows, size, True)


def _lines(files: Sequence[SourceFile]) -> Rows:
    """Of all files together, from as many of their first bytes as may be read."""
    left, read, rows, size = READ_BYTES, 0, 0, 0
    for file in files:
        stored = min(left, file.bytes)
        if stored < min(file.bytes, _LEAST):
            break
        counted, unpacked = _count(file, stored)
        rows, size, read, left = rows + counted, size + unpacked, read + stored, left - stored
    whole = sum(file.bytes for file in files)
    share = read / max(whole, 1)
    return Rows(rows, size, True) if read == whole else Rows(round(rows / share), round(size / share), False)


def _count(file: SourceFile, stored: int) -> tuple[int, int]:
    """Rows and unpacked bytes."""
    if file.name.endswith(".txt"):
        return 1, file.bytes
    rows, size, last = 0, 0, b"\n"
    for chunk in head(file, stored):
        rows, size, last = rows + chunk.count(b"\n"), size + len(chunk), chunk[-1:] or last
    rows += last != b"\n" and stored == file.bytes
    return rows - (".tsv" in file.name), size  # its first line names the columns
