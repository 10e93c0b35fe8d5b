"""All shards as one: a single file that search maps into memory, for one machine.

FAISS appends the codes of one index to another's (IVF: list by list; Flat, SQ and PQ: at the end), so the merged index
is byte for byte the one that a single shard of all pieces would be, and it has that shard's name: an index that grows
finds it again by it. The merging task holds the whole index, and the largest shard while it is appended; one that its
node cannot hold is refused in words. The rows go from file to file. The shards' own files are deleted once the
manifest stands.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ccp_ray.artifact import Output
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.index_anatomy import faiss_errors
from ccp_ray.index_file import read_index
from ccp_ray.index_shards import Making, Shard, put_shard
from ccp_ray.ledger import Entry, FileRecord, verified_copy
from ccp_ray.pieces import run_pieces
from ccp_ray.session import largest_node
from ccp_ray.sizes import megabytes
from ccp_ray.storage import open_store

_SLACK = 1.1  # vectors of codes grow by doubling, lists do by less


def check_merge_fits(total: int, shards: int) -> None:
    """Raises UsageError, before anything is built, where no node of the Ray session could hold the merged index."""
    need, memory = _need(total, total // max(shards, 1)), largest_node("memory")
    if need > memory:
        raise UsageError(
            f"merge: the merged index takes {megabytes(need)} of memory, the largest node offers {megabytes(memory)}; "
            "set merge=false, or use a factory with smaller codes"
        )


def merge_shards(
    target: Output,
    embeddings: Embeddings,
    making: Making,
    shards: list[Shard],
    entries: dict[str, Entry],
    *,
    cpus: float,
) -> tuple[Shard, Entry]:
    """The merged shard of these and its entry, stage "merge"."""
    pieces = [number for shard in shards for number in shard.pieces]
    merged = Shard(making.name(embeddings, pieces), pieces)
    files = [[record.model_dump() for record in entries[shard.name].files] for shard in shards]
    job = {"output": target.uri, "shards": files, "factory": making.factory}
    return merged, run_pieces(target, "merge", {merged.name: job}, _merge, cpus=cpus)[merged.name]


def _merge(name: str, job: dict[str, Any]) -> Entry:
    import faiss

    store = open_store(job["output"])
    shards = [[FileRecord.model_validate(record) for record in files] for files in job["shards"]]
    _refuse_too_large([files[0].bytes for files in shards])
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as folder:
        scratch = Path(folder)
        vectors, rows = scratch / "merged.faiss", scratch / "merged.parquet"
        merged: Any = None
        for vectors_record, _ in shards:
            part = read_index(verified_copy(store, vectors_record, scratch / "parts"), store.uri(vectors_record.path))
            merged = part if merged is None else _append(merged, part, job["factory"])
        faiss.write_index(merged, str(vectors))
        _join_tables([verified_copy(store, record, scratch / "parts") for _, record in shards], rows)
        files = put_shard(store, name, vectors, rows)
    return Entry(rows=int(merged.ntotal), files=files)


def _append(merged: Any, part: Any, factory: str) -> Any:
    import faiss

    # Lists of an IVF hold row numbers, which go up by the rows before; codes of others stand in row order.
    shift = merged.ntotal if faiss.try_extract_index_ivf(merged) is not None else 0
    with faiss_errors(factory):
        merged.merge_from(part, shift)
    return merged


def _join_tables(paths: list[Path], out: Path) -> None:
    """Row groups of all files, one at a time."""
    with pq.ParquetWriter(out, pq.read_schema(paths[0]), compression="zstd") as writer:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group).cast(writer.schema))


def _refuse_too_large(sizes: list[int]) -> None:
    import psutil

    need, free = _need(sum(sizes), max(sizes)), psutil.virtual_memory().available
    if need > free:
        raise CcpError(
            f"merge: takes {megabytes(need)} of memory, this node has {megabytes(free)} free; the shards are built: "
            "free memory or add a larger node and run again, or index to another --output with merge=false"
        )


def _need(total: int, largest: int) -> int:
    return int(_SLACK * (total + largest))
