"""Inputs of an index, made by hand, and what an index holds, read without the library."""

from __future__ import annotations

import io
import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.ledger import put_bytes

D = 8
ENCODER = InputRef(role="encoder", uri="package://some/encoder", fingerprint="e" * 64)


def embeddings(
    uri: Path | str, sizes=(5, 7, 4), languages=("de", "en"), dimensions=D, dtype="float32", spoilt=None
) -> Artifact:
    """Pieces of these sizes; the same first sizes give the same first pieces. `spoilt`: other vectors by piece."""
    rng = np.random.default_rng(0)
    output = open_output(str(uri), Request(kind="embeddings", config={"sizes": list(sizes)}, inputs=[ENCODER]))
    assert isinstance(output, Output)
    files, pieces, total = [], [], 0
    for number, count in enumerate(sizes):
        vectors = (3 * rng.normal(size=(count, dimensions))).astype(dtype)
        vectors = (spoilt or {}).get(number, vectors)
        langs = [languages[(number + i) % len(languages)] for i in range(count)]
        rows = [{"id": f"{total + i:04d}", "lang": lang, "text": f"t{total + i}"} for i, lang in enumerate(langs)]
        total += count
        array, table = io.BytesIO(), io.BytesIO()
        np.save(array, vectors)
        pq.write_table(pa.Table.from_pylist(rows), table)
        keys = {"vectors": f"vectors/{number}.npy", "table": f"rows/{number}.parquet"}
        files += [
            put_bytes(output.store, key, data.getvalue())
            for key, data in zip(keys.values(), (array, table), strict=True)
        ]
        counts = {lang: langs.count(lang) for lang in sorted(set(langs))}
        pieces.append({"name": str(number), "rows": count, **keys, "languages": counts})
    files.append(put_bytes(output.store, "pieces.json", json.dumps(pieces).encode()))
    return output.finish(files, {"rows": total, "dimensions": dimensions, "dtype": dtype})


def calibration(uri: Path | str, languages=("de", "en"), dimensions=D, seed=1) -> Calibration:
    rng = np.random.default_rng(seed)
    made = Calibration(
        languages[0],
        {
            lang: (
                rng.normal(size=dimensions).astype(np.float32),
                rng.uniform(0.5, 2, size=dimensions).astype(np.float32),
                np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0].astype(np.float32),
            )
            for lang in languages
        },
    )
    output = open_output(str(uri), Request(kind="calibration", config={"languages": list(languages)}))
    assert isinstance(output, Output)
    output.finish([made.save(output.store)], {"pivot": languages[0]})
    return made


def stored(artifact: Artifact) -> tuple[np.ndarray, pa.Table]:
    """All vectors of all shards and their rows."""
    vectors, tables = [], []
    for shard in artifact.summary["shards"]:
        raw = np.frombuffer(artifact.store.read(shard["vectors"]), dtype=np.uint8)
        built = faiss.deserialize_index(raw)
        assert built.ntotal == shard["rows"]
        assert built.metric_type == faiss.METRIC_INNER_PRODUCT
        vectors.append(built.reconstruct_n(0, built.ntotal))
        tables.append(pq.read_table(pa.BufferReader(artifact.store.read(shard["table"]))))
    return np.concatenate(vectors), pa.concat_tables(tables)


def source_rows(artifact: Artifact) -> tuple[np.ndarray, list[str], list[str]]:
    """Vectors, ids and languages straight from the files."""
    pieces = json.loads(artifact.store.read("pieces.json"))
    vectors = [np.load(io.BytesIO(artifact.store.read(piece["vectors"]))) for piece in pieces]
    tables = [pq.read_table(pa.BufferReader(artifact.store.read(piece["table"]))) for piece in pieces]
    table = pa.concat_tables(tables)
    return np.concatenate(vectors), table["id"].to_pylist(), table["lang"].to_pylist()
