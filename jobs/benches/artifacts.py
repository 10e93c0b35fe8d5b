"""Random embeddings artifacts for the benches of index and search, written as `embed` would."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact, InputRef, Request, open_output
from ccp_ray.errors import UsageError
from ccp_ray.ledger import put_bytes
from ccp_ray.sentences import array_bytes, table_bytes


def random_vectors(rows: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Vectors [rows, dimensions] around 1,000 centres, so that the lists of an IVF index fill as they do with text."""
    rng = np.random.default_rng(seed)
    centres_CD = rng.standard_normal((min(1000, rows), dimensions), dtype=np.float32)
    out_ND = centres_CD[rng.integers(len(centres_CD), size=rows)]
    out_ND += 0.7 * rng.standard_normal((rows, dimensions), dtype=np.float32)
    return out_ND


def write_embeddings(uri: str, pieces: Sequence[NDArray[np.float32]]) -> Artifact:
    """A finished embeddings artifact of these vectors [rows, D], float32, each row with an id and a short text."""
    request = Request(
        kind="embeddings",
        config={"pooling": None, "max_tokens": None},
        inputs=[InputRef(role="encoder", uri="bench", fingerprint="bench")],
    )
    output = open_output(uri, request)
    if isinstance(output, Artifact):
        raise UsageError(f"{uri}: the bench writes its embeddings itself; name an empty folder")
    files, index, start = [], [], 0
    for number, vectors_ND in enumerate(pieces):
        name, rows = f"{number:05d}", len(vectors_ND)
        ids = [f"t{row:08d}" for row in range(start, start + rows)]
        table = pa.table({"id": ids, "lang": ["en"] * rows, "text": [f"text {name}" for name in ids]})
        keys = {"vectors": f"vectors/{name}.npy", "table": f"rows/{name}.parquet"}
        files += [
            put_bytes(output.store, keys["vectors"], array_bytes(vectors_ND)),
            put_bytes(output.store, keys["table"], table_bytes(table)),
        ]
        index.append({"name": name, "rows": rows, **keys, "languages": {"en": rows}})
        start += rows
    files.append(put_bytes(output.store, "pieces.json", json.dumps(index).encode()))
    summary = {"rows": start, "dimensions": pieces[0].shape[1], "dtype": "float32", "languages": {"en": start}}
    return output.finish(files, summary)
