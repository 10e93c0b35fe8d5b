"""Index artifacts for tests, written without the code that writes them: the format that readers rely on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.ledger import put_bytes

LANGUAGES = ["de", "en", "sw"]
D = 16
Table = list[dict[str, str]]


def rows(count: int, seed: int = 0, copies: int = 0) -> tuple[np.ndarray, Table]:
    """Unit vectors and their table; the last `copies` rows repeat the first one under ids in shuffled order."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, D)).astype(np.float32)
    vectors[count - copies :] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"doc{i:05d}#0" for i in rng.permutation(count)]
    return vectors, [{"id": ids[i], "lang": LANGUAGES[i % 3], "text": f"text {ids[i]}"} for i in range(count)]


def queries(count: int, seed: int = 99) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)


def build(
    uri: Path | str,
    vectors: np.ndarray,
    table: Table,
    shards: int,
    factory: str = "Flat",
    *,
    encoder: dict[str, Any] | None = None,
    calibration: Artifact | None = None,
    **summary: Any,
) -> Artifact:
    """Rows cut into so many shards in their order; `summary` adds to the artifact's."""
    inputs: list[InputRef] = [calibration.ref("calibration")] if calibration else []
    output = open_output(str(uri), Request(kind="index", config={"shards": shards}, inputs=inputs))
    assert isinstance(output, Output)
    files, described = [], []
    for number, part in enumerate(np.array_split(np.arange(len(vectors)), shards)):
        name = f"shard-{number:05d}"
        buffer = io.BytesIO()
        schema = pa.schema([(column, pa.string()) for column in ("id", "lang", "text")])
        pq.write_table(pa.Table.from_pylist([table[i] for i in part], schema), buffer)
        data = faiss.serialize_index(faiss_index(vectors[part], factory)).tobytes()
        files.append(put_bytes(output.store, f"shards/{name}.faiss", data))
        files.append(put_bytes(output.store, f"shards/{name}.parquet", buffer.getvalue()))
        keys = {"vectors": f"shards/{name}.faiss", "table": f"shards/{name}.parquet"}
        described.append({"name": name, "rows": len(part), **keys})
    whole = {"rows": len(vectors), "dimensions": vectors.shape[1], "shards": described}
    whole["encoder"] = encoder or {"role": "encoder", "uri": "nowhere", "fingerprint": "f"}
    whole["encoding"] = {"pooling": None, "max_tokens": None}
    return output.finish(files, whole | {"calibrated": calibration is not None} | summary)


def faiss_index(vectors: np.ndarray, factory: str) -> Any:
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    return index
