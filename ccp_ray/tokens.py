"""Sentences to token shards: the last pass of `prepare`, one task a part.

Training reads token ids by position, so a train part becomes four flat arrays (see `corpus.TokenShard`). Ids carry
no special tokens; a sentence is cut at `max_tokens`. A sentence without a token and a document with fewer
than two sentences have no context to predict and are left out of the shard, not of the sentences.

uint16 where the vocabulary fits (2 bytes a token), else uint32. Tokenising is the cost of `prepare`: 2.6 MB/s (German)
to 4.7 (Japanese) on one core for a Unigram, where reading and splitting do 13 to 15.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ccp_ray.corpus import Part
from ccp_ray.duplicates import rows_that_stay
from ccp_ray.ledger import Entry, FileRecord, put_bytes
from ccp_ray.records import BadRow
from ccp_ray.sentences import Quarantine, RawPart, array_bytes, table_bytes
from ccp_ray.storage import Store, open_store
from ccp_ray.tokenizer import load_tokenizer

_BATCH = 4096


class Shard(NamedTuple):
    """The arrays of one part; `cut` counts the sentences that were longer than the limit."""

    tokens_T: NDArray[Any]
    sentences_S1: NDArray[np.int64]
    documents_D1: NDArray[np.int64]
    hashes_S: NDArray[np.uint64]
    cut: int


def make_tokens(store_uri: str, max_tokens: int, tokenizer_sha256: str, piece: str, payload: str) -> Entry:
    """Finish one part: put repeated documents aside, write the token shard of a train part.

    `payload` is JSON {"part": RawPart, "drop": ordinals of documents, "source": where the part came from}.
    `info`: the final `part` and `cut`.
    """
    del piece
    job = json.loads(payload)
    raw, drop = RawPart.model_validate(job["part"]), job["drop"]
    store = open_store(store_uri)
    table = pq.read_table(pa.BufferReader(store.read(raw.sentences)))
    files: list[FileRecord] = []
    key = raw.sentences
    if drop:
        table, key, files = _put_aside(store, table, raw, drop, job["source"])
    shard = None
    if raw.split == "train":
        shard = build_shard(table, load_tokenizer(store_uri, tokenizer_sha256), max_tokens)
    prefix = f"tokens/{raw.lang}/{raw.piece}-{raw.number:04d}"
    has_context = shard is not None and len(shard.hashes_S) > 0
    if shard is not None and has_context:
        for name, array in zip(("tokens", "sentences", "documents", "hashes"), shard[:4], strict=True):
            files.append(put_bytes(store, f"{prefix}/{name}.npy", array_bytes(array)))
    part = Part(
        name=raw.name,
        lang=raw.lang,
        split="train" if raw.split == "train" else "dev",
        rows=table.num_rows,
        sentences=key,
        tokens=prefix if has_context else None,
        documents=raw.documents - len(drop),
        token_count=len(shard.tokens_T) if shard else 0,
    )
    info = {"part": part.model_dump(), "cut": shard.cut if shard else 0}
    return Entry(rows=table.num_rows, quarantined=len(drop), files=files, info=info)


def build_shard(table: pa.Table, tokenizer: Tokenizer, max_tokens: int) -> Shard:
    """Token arrays of a table of sentences (columns position, text, hash) in document order."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    position_N = table["position"].to_numpy()
    document_N = np.cumsum(position_N == 0) - 1
    batches: list[NDArray[Any]] = []
    lengths: list[int] = []
    for start in range(0, table.num_rows, _BATCH):
        texts = table["text"].slice(start, _BATCH).to_pylist()
        rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths += map(len, rows)
        batches.append(np.fromiter(chain.from_iterable(row[:max_tokens] for row in rows), dtype=dtype))
    full_N = np.array(lengths, dtype=np.int64)
    size_N = np.minimum(full_N, max_tokens)
    keep_N = _in_context(document_N, size_N > 0)
    tokens_T = np.concatenate(batches)[np.repeat(keep_N, size_N)] if batches else np.zeros(0, dtype)
    sentences_S1 = np.concatenate([[0], np.cumsum(size_N[keep_N])])
    counts_D = np.unique(document_N[keep_N], return_counts=True)[1]
    documents_D1 = np.concatenate([[0], np.cumsum(counts_D)]).astype(np.int64)
    cut = int((full_N > max_tokens).sum())
    return Shard(tokens_T, sentences_S1.astype(np.int64), documents_D1, table["hash"].to_numpy()[keep_N], cut)


def _in_context(document_N: NDArray[np.int64], full_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sentences that have a token and share their document with another that has."""
    if not len(document_N):
        return full_N
    counts_D = np.bincount(document_N[full_N], minlength=int(document_N[-1]) + 1)
    return full_N & (counts_D[document_N] >= 2)


def _put_aside(
    store: Store, table: pa.Table, raw: RawPart, drop: Sequence[int], source: str
) -> tuple[pa.Table, str, list[FileRecord]]:
    """Write the part without the documents of these ordinals, and their ids to quarantine.

    The first pass's file stays as it is until the corpus is finished: a killed run may still need it.
    """
    stay_N = rows_that_stay(table["position"].to_numpy(), drop)
    key = raw.sentences.replace(".parquet", "-unique.parquet")
    gone = table.filter(pa.array(~stay_N))
    kept = table.filter(pa.array(stay_N))
    with tempfile.TemporaryDirectory() as folder:
        quarantine = Quarantine(Path(folder) / "rows.jsonl")
        for row in gone.filter(pa.array(gone["position"].to_numpy() == 0)).to_pylist():
            quarantine.add(BadRow(source, f"id {row['doc']}", "an earlier document has this id", row["text"][:200]))
        files = quarantine.put(store.root, f"quarantine/{raw.name}.jsonl")
    return kept, key, [*files, put_bytes(store, key, table_bytes(kept))]
