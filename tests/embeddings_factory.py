"""Writes an embeddings artifact by hand, in the format that readers rely on."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.storage import Store

Rows = list[tuple[str, str, str]]


def write_embeddings(uri: str, pieces: list[tuple[NDArray[np.floating], Rows]]) -> Artifact:
    """Pieces of vectors [rows, D] and rows (id, lang, text)."""
    digest = hashlib.sha256(b"".join(vectors.tobytes() for vectors, _ in pieces)).hexdigest()
    output = open_output(uri, Request(kind="embeddings", config={"content": digest}))
    if isinstance(output, Artifact):
        return output
    files: list[FileRecord] = []
    index = []
    totals: dict[str, int] = {}
    for number, (vectors_ND, rows) in enumerate(pieces):
        counts: dict[str, int] = {}
        for _, lang, _ in rows:
            counts[lang] = counts.get(lang, 0) + 1
            totals[lang] = totals.get(lang, 0) + 1
        name = f"{number:05d}"
        files += _write_piece(output.store, name, vectors_ND, rows)
        keys = {"vectors": f"vectors/{name}.npy", "table": f"rows/{name}.parquet"}
        index.append({"name": name, "rows": len(rows), **keys, "languages": counts})
    files.append(put_bytes(output.store, "pieces.json", json.dumps(index).encode()))
    first = pieces[0][0]
    summary = {
        "rows": sum(totals.values()),
        "dimensions": first.shape[1],
        "dtype": str(first.dtype),
        "languages": totals,
    }
    return output.finish(files, summary)


def one_language(vectors_ND: NDArray[np.floating], lang: str, start: int = 0) -> tuple[NDArray[np.floating], Rows]:
    """A piece of one language with numbered rows."""
    return vectors_ND, [(f"{lang}{start + i}", lang, f"text {start + i}") for i in range(len(vectors_ND))]


def _write_piece(store: Store, name: str, vectors_ND: NDArray[np.floating], rows: Rows) -> list[FileRecord]:
    vectors, table = io.BytesIO(), io.BytesIO()
    np.save(vectors, vectors_ND)
    pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], names=["id", "lang", "text"]), table)
    return [
        put_bytes(store, f"vectors/{name}.npy", vectors.getvalue()),
        put_bytes(store, f"rows/{name}.parquet", table.getvalue()),
    ]
