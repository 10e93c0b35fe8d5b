"""Documents that repeat an id, and sentences that repeat a text: one task a language.

The first pass leaves a 64-bit hash of every document's id. A language's hashes are compared in sweeps of at most
16 million (128 MiB): sweep s looks at the hashes that are s modulo the number of sweeps. The first document with an
id stays (training parts before held-out ones, then the order of the input); the others are put aside. Two different
ids share a hash with a chance of n²/2^65: 1 in 37 million for a million documents, 1 in 37 for a billion, and then
one document too many is put aside.

Equal sentences are counted, not removed: "Yes." belongs to its document. The count is exact up to 16 million
sentences a language; above that it is taken from the hashes that end in k zero bits and multiplied by 2^k (standard
error below 0.1 % of the sentences).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ccp_ray.ledger import Entry
from ccp_ray.sentences import RawPart
from ccp_ray.storage import Store, open_store

HASHES = 16 << 20


def find_repeats(store_uri: str, lang: str, payload: str) -> Entry:
    """`info`: `drop` (part name -> ordinals of documents to put aside) and `duplicates` (sentences)."""
    del lang
    store = open_store(store_uri)
    parts = [RawPart.model_validate(part) for part in json.loads(payload)]
    drop = repeated_ids(store, parts)
    return Entry(rows=sum(p.rows for p in parts), info={"drop": drop, "duplicates": repeated_texts(store, parts, drop)})


def repeated_ids(store: Store, parts: Sequence[RawPart], limit: int = HASHES) -> dict[str, list[int]]:
    """Ordinals within their part of documents whose id an earlier document of the language has."""
    sweeps = max(1, -(-sum(part.documents for part in parts) // limit))
    drop: dict[str, list[int]] = {}
    for sweep in range(sweeps):
        hashes: list[NDArray[np.uint64]] = []
        places: list[NDArray[np.int64]] = []
        for number, part in enumerate(parts):
            ids: NDArray[np.uint64] = np.load(io.BytesIO(store.read(part.ids)), allow_pickle=False)
            mine = np.flatnonzero(ids % np.uint64(sweeps) == sweep)
            hashes.append(ids[mine])
            places.append(np.stack([np.full(len(mine), number), mine], axis=1))
        hash_N, place_N2 = np.concatenate(hashes), np.concatenate(places)
        order = np.argsort(hash_N, kind="stable")
        again = order[1:][hash_N[order][1:] == hash_N[order][:-1]]
        for number, ordinal in place_N2[again].tolist():
            drop.setdefault(parts[number].name, []).append(ordinal)
    return {name: sorted(drop[name]) for name in sorted(drop)}


def repeated_texts(store: Store, parts: Sequence[RawPart], drop: dict[str, list[int]], limit: int = HASHES) -> int:
    """How many sentences an earlier one of the language equals."""
    zeros = 0
    while sum(part.rows for part in parts) >> zeros > limit:
        zeros += 1
    kept: list[NDArray[np.uint64]] = []
    for part in parts:
        table = pq.read_table(io.BytesIO(store.read(part.sentences)), columns=["position", "hash"])
        stays = rows_that_stay(table["position"].to_numpy(), drop.get(part.name, []))
        hash_N = table["hash"].to_numpy()[stays]
        kept.append(hash_N[hash_N & np.uint64((1 << zeros) - 1) == 0])
    hash_N = np.concatenate(kept)
    return int(len(hash_N) - len(np.unique(hash_N))) << zeros


def rows_that_stay(position_N: NDArray[np.int32], drop: Sequence[int]) -> NDArray[np.bool_]:
    """Mask over a part's rows without the documents of these ordinals; a document starts at position 0."""
    return ~np.isin(np.cumsum(position_N == 0) - 1, drop)
