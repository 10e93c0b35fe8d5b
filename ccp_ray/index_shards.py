"""Shards: whole pieces of embeddings in one FAISS index, named by the digest of what decides its content.

    shards/NAME.DIGEST.faiss      the index; row i is row i of the table
    shards/NAME.DIGEST.parquet    id, lang, text

NAME covers the pieces' names and the sums of their objects, in order, the calibration, factory, metric and quantiser.
So a shard of an earlier index whose pieces are all still there has the name that it would get now, and is copied
instead of built; the pieces that no such shard has are sharded anew. Building streams: a piece is read, added and
forgotten, so memory is the index and three copies of a piece (1.5 GB + 0.3 GB for a million rows of 384 dimensions in
exact fp32; FAISS holds twice the index while it grows).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from ccp_ray.artifact import Artifact, Output, digest_json
from ccp_ray.embeddings import Embeddings
from ccp_ray.index_anatomy import faiss_errors, is_graph
from ccp_ray.index_gpu import GpuUse, placed
from ccp_ray.index_rows import RowSource
from ccp_ray.ledger import Entry, FileRecord, copy_verified, put_content_file
from ccp_ray.pieces import run_pieces
from ccp_ray.quantiser import Quantiser, start_index
from ccp_ray.storage import Store, open_store


class Making(NamedTuple):
    """What all shards of an index have in common. The calibration is its fingerprint."""

    factory: str
    metric: str
    calibration: str | None
    quantiser: Quantiser | None

    def name(self, embeddings: Embeddings, numbers: list[int]) -> str:
        """Of the shard that holds these pieces."""
        sums = {record.path: record.sha256 for record in embeddings.artifact.files}
        pieces = [embeddings.pieces[number] for number in numbers]
        return digest_json(
            {
                "pieces": [[piece.name, sums[piece.vectors], sums[piece.table]] for piece in pieces],
                "factory": self.factory,
                "metric": self.metric,
                "calibration": self.calibration,
                "quantiser": self.quantiser.record.sha256 if self.quantiser else None,
            }
        )[:32]


class Shard(NamedTuple):
    """Pieces by number, and the earlier index that has the shard already."""

    name: str
    pieces: list[int]
    earlier: Artifact | None = None


def plan_shards(rows: list[int], most: int) -> list[list[int]]:
    """Numbers of the pieces of each shard: whole pieces in order, up to `most` rows."""
    shards: list[list[int]] = []
    room = 0
    for number, count in enumerate(rows):
        if not shards or count > room:
            shards.append([])
            room = most
        shards[-1].append(number)
        room -= count
    return shards


def plan_index(embeddings: Embeddings, making: Making, most: int, earlier: Iterable[Artifact] = ()) -> list[Shard]:
    """Shards in the order of their first piece: those that earlier indexes have, and the other pieces' new ones."""
    numbers = {piece.name: number for number, piece in enumerate(embeddings.pieces) if piece.rows}
    shards: list[Shard] = []
    for artifact in earlier:
        for shard in artifact.summary["shards"]:
            pieces = [numbers[name] for name in shard.get("pieces", ()) if name in numbers]
            whole = pieces and len(pieces) == len(shard["pieces"])
            if whole and making.name(embeddings, pieces) == shard["name"]:
                shards.append(Shard(shard["name"], pieces, artifact))
                for name in shard["pieces"]:
                    del numbers[name]
    left = sorted(numbers.values())
    for group in plan_shards([embeddings.pieces[number].rows for number in left], most):
        pieces = [left[place] for place in group]
        shards.append(Shard(making.name(embeddings, pieces), pieces))
    return sorted(shards, key=lambda shard: min(shard.pieces))


def build_shards(
    target: Output, source: RowSource, making: Making, shards: list[Shard], dimensions: int, *, cpus: float, gpu: GpuUse
) -> dict[str, Entry]:
    """Commit every shard, stage "index". Raises DataError for pieces that cannot be used, naming them."""
    job = {"output": target.uri, "source": source._asdict(), "factory": making.factory, "dimensions": dimensions}
    job |= {"quantiser": making.quantiser.record.model_dump() if making.quantiser else None, "gpu": gpu}
    job |= {"threads": max(int(cpus), 1)}
    plan = {shard.name: job | {"pieces": shard.pieces, "copy": _copy_job(shard)} for shard in shards}
    return run_pieces(target, "index", plan, _make, cpus=cpus, gpus=int(gpu != "no"))


def put_shard(store: Store, name: str, vectors: Path, rows: Path) -> list[FileRecord]:
    """Upload a shard's files, by content: another machine's codes may differ in a bit. Records: vectors, then rows."""
    return [put_content_file(store, f"shards/{name}", path) for path in (vectors, rows)]


def _copy_job(shard: Shard) -> dict[str, Any] | None:
    if shard.earlier is None:
        return None
    records = {record.path: record.model_dump() for record in shard.earlier.files}
    kept = next(kept for kept in shard.earlier.summary["shards"] if kept["name"] == shard.name)
    files = [records[kept[kind]] for kind in ("vectors", "table")]
    return {"uri": shard.earlier.uri, "records": files, "rows": kept["rows"]}


def _make(name: str, job: dict[str, Any]) -> Entry:
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        return _copy(job) if job["copy"] else _build(name, job, Path(scratch))


def _copy(job: dict[str, Any]) -> Entry:
    source, store = open_store(job["copy"]["uri"]), open_store(job["output"])
    records = [FileRecord.model_validate(record) for record in job["copy"]["records"]]
    for record in records:
        copy_verified(source, store, record, "--reuse")
    return Entry(rows=job["copy"]["rows"], files=records)


def _build(name: str, job: dict[str, Any], scratch: Path) -> Entry:
    import faiss

    rows = RowSource(**job["source"]).open()
    built = start_index(job["output"], job["quantiser"], job["factory"], job["dimensions"])
    # A graph depends on the order in which threads add to it, and the same shard must come out the same.
    faiss.omp_set_num_threads(1 if is_graph(built) else job["threads"])
    vectors, table_path = scratch / "shard.faiss", scratch / "shard.parquet"
    writer: pq.ParquetWriter | None = None
    at = placed(built, job["factory"], job["gpu"])
    for vectors_ND, table in rows.stream(job["pieces"]):
        with faiss_errors(job["factory"]):
            at.index.add(vectors_ND)
        if writer is None:
            writer = pq.ParquetWriter(table_path, table.schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
    assert writer is not None, "a shard has pieces"
    writer.close()
    with faiss_errors(job["factory"]):
        faiss.write_index(at.home(), str(vectors))
    files = put_shard(open_store(job["output"]), name, vectors, table_path)
    return Entry(rows=int(at.index.ntotal), files=files, info=at.told)
