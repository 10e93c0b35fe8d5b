"""Exact search of one collection as a resumable job: its pieces are shared out over Ray tasks, each committed.

    queries (one file) ──► piece 0, piece 1, ... (tasks) ──► the k best of each piece ──► merged by the driver

A piece is read by one task, once for all variants, and its k best hits a query go to a file (`_search/`, gone when the
evaluation ends) whose ledger entry is the commit; a killed search repeats what was under way. A collection of one piece
is searched in this process: starting tasks would take longer. Memory of the driver: the hits that are kept, and those
of one piece.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from ccp_ray.artifact import Output
from ccp_ray.calibration import Calibration
from ccp_ray.embeddings import Embeddings
from ccp_ray.ledger import Entry
from ccp_ray.pieces import run_pieces
from ccp_ray.ranking import RANKED
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store
from eval.exact import UNNAMED, Asked, Best, Similarity, Space, exact_search, search_piece


class Search(NamedTuple):
    """One collection and what is asked of it. `name` is its own among the searches of an output."""

    name: str
    embeddings: str
    asked: Mapping[str, Asked]
    k: int
    calibration: str | None
    similarity: Similarity
    unnamed: str = UNNAMED

    @property
    def folder(self) -> str:
        return f"_search/{self.name}"


def run_search(target: Output, search: Search) -> dict[str, pa.Table]:
    """The k best rows of each query, by variant, as `exact_search` has them; the same to the bit."""
    embeddings = Embeddings.open(search.embeddings)
    if len(embeddings.pieces) == 1:
        space = _space(search.calibration, search.similarity, search.unnamed)
        return exact_search(embeddings, search.asked, search.k, space)
    target.store.write(f"{search.folder}/queries.safetensors", _packed(search.asked))
    with ray_session():
        entries = run_pieces(target, search.name, _plan(target, embeddings, search), _search_piece)
    found = {name: Best(len(one.queries_QD), search.k) for name, one in search.asked.items()}
    for entry in entries.values():
        for name, part in _read(target, entry):
            found[name].add(part)
    return {name: kept.table() for name, kept in found.items()}


def _space(calibration: str | None, similarity: Similarity, unnamed: str) -> Space:
    return Space(Calibration.open(calibration) if calibration else None, similarity, unnamed)


def _packed(asked: Mapping[str, Asked]) -> bytes:
    packed: bytes = save({name: np.ascontiguousarray(one.queries_QD) for name, one in asked.items()})
    return packed


def _plan(target: Output, embeddings: Embeddings, search: Search) -> dict[str, Any]:
    job = {
        "output": target.uri,
        "folder": search.folder,
        "embeddings": search.embeddings,
        "steps": {name: list(one.steps) for name, one in search.asked.items()},
        "k": search.k,
        "space": (search.calibration, search.similarity, search.unnamed),
    }
    return {f"{number:05d}": job | {"number": number} for number in range(len(embeddings.pieces))}


def _search_piece(name: str, job: dict[str, Any]) -> Entry:
    store = open_store(job["output"])
    queries = load(store.read(f"{job['folder']}/queries.safetensors"))
    asked = {variant: Asked(tuple(steps), queries[variant]) for variant, steps in job["steps"].items()}
    space, embeddings = _space(*job["space"]), Embeddings.open(job["embeddings"])
    parts = []
    for variant, part in search_piece(embeddings, job["number"], asked, job["k"], space):
        parts.append(part.append_column("variant", pa.array([variant] * len(part), pa.string())))
    table, data = pa.concat_tables(parts), io.BytesIO()
    pq.write_table(table, data, compression="zstd")
    key = f"{job['folder']}/{name}.parquet"
    store.write(key, data.getvalue())
    return Entry(rows=len(table), info={"hits": key})


def _read(target: Output, entry: Entry) -> Iterator[tuple[str, pa.Table]]:
    table = pq.read_table(io.BytesIO(target.store.read(entry.info["hits"])))
    for variant in table.column("variant").unique().to_pylist():
        own = table.filter(pa.compute.equal(table.column("variant"), variant))
        yield variant, own.select(RANKED.names).cast(RANKED)
