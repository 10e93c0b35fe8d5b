"""The trained, empty index that all shards start from: centroids, codebooks, rotations. Trained once.

Shards with one quantiser can be merged, and share the meaning of `nprobe`. Its key is a digest of what it is made
for (encoder, calibration, factory, metric, how it is trained), not of the rows: an index that grows takes the earlier
one's quantiser by this key, so that earlier shards stay. The file is named by its content, as two trainings may
differ in the last bit. k-means runs ten iterations of rows x lists x dimensions: 262,144 rows, 4,096 lists and
384 dimensions are 8e12 operations, a minute and a half at 100 GFLOP/s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ccp_ray.artifact import Artifact, Output
from ccp_ray.errors import DataError
from ccp_ray.index_anatomy import empty_index, faiss_errors
from ccp_ray.index_file import read_index
from ccp_ray.index_gpu import GpuUse, placed
from ccp_ray.index_sample import Sample, load
from ccp_ray.ledger import Entry, FileRecord, copy_verified, put_content_file, verified_copy
from ccp_ray.model_source import cache_folder
from ccp_ray.pieces import run_pieces
from ccp_ray.storage import open_store


class Quantiser(NamedTuple):
    """`key`: of what it is made for; `record`: the file; `rows`: that it was trained on."""

    key: str
    record: FileRecord
    rows: int

    def summary(self) -> dict[str, Any]:
        """What an index keeps of it."""
        return {"key": self.key, "file": self.record.path, "rows": self.rows}


def earlier_quantiser(key: str, earlier: Iterable[Artifact]) -> tuple[Artifact, Quantiser] | None:
    """The quantiser of this key among earlier indexes, and the index that has it."""
    for artifact in earlier:
        kept = artifact.summary.get("quantiser")
        if kept is not None and kept["key"] == key:
            records = {record.path: record for record in artifact.files}
            return artifact, Quantiser(key, records[kept["file"]], int(kept["rows"]))
    return None


def quantiser(
    target: Output,
    key: str,
    factory: str,
    dimensions: int,
    samples: list[Sample],
    earlier: Iterable[Artifact] = (),
    *,
    cpus: float,
    gpu: GpuUse,
) -> tuple[Quantiser, Entry]:
    """Train on the samples, or copy an earlier index' quantiser of the same key: one piece of the stage "quantiser".

    Returns its entry, too. Raises UsageError for rows that FAISS refuses to train on.
    """
    job: dict[str, Any] = {"output": target.uri, "factory": factory, "dimensions": dimensions}
    job |= {"train": [sample.train.model_dump() for sample in samples], "gpu": gpu, "threads": max(int(cpus), 1)}
    found = earlier_quantiser(key, earlier)
    if found is not None:
        job["copy"] = {"uri": found[0].uri, "record": found[1].record.model_dump(), "rows": found[1].rows}
    entry = run_pieces(target, "quantiser", {key: job}, _make, cpus=cpus, gpus=int(gpu != "no"))[key]
    return Quantiser(key, entry.files[0], entry.rows), entry


def start_index(output: str, record: dict[str, Any] | None, factory: str, dimensions: int) -> Any:
    """The empty index that a shard adds to: the quantiser's, checked by its sum, or a new one where none is trained."""
    if record is None:
        return empty_index(factory, dimensions)
    store, file = open_store(output), FileRecord.model_validate(record)
    return read_index(verified_copy(store, file, cache_folder() / "quantisers"), store.uri(file.path))


def _make(_: str, job: dict[str, Any]) -> Entry:
    store = open_store(job["output"])
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        if "copy" in job:
            record = FileRecord.model_validate(job["copy"]["record"])
            copy_verified(open_store(job["copy"]["uri"]), store, record, "--reuse")
            return Entry(rows=job["copy"]["rows"], files=[record])
        path = Path(scratch, "trained.faiss")
        rows, told = _train(job, path)
        return Entry(rows=rows, files=[put_content_file(store, "quantiser/trained", path)], info=told)


def _train(job: dict[str, Any], path: Path) -> tuple[int, dict[str, str]]:
    """Rows that it was trained on, and what is to be told of it."""
    import faiss

    vectors_ND = load(open_store(job["output"]), [FileRecord.model_validate(record) for record in job["train"]])
    if not len(vectors_ND):
        raise DataError(f"{job['output']}: no rows to train on")
    faiss.omp_set_num_threads(job["threads"])
    at = placed(empty_index(job["factory"], job["dimensions"]), job["factory"], job["gpu"])
    with faiss_errors(job["factory"]):
        at.index.train(vectors_ND)
        faiss.write_index(at.home(), str(path))
    return len(vectors_ND), at.told
