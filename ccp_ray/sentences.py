"""Documents to sentences: the first pass of `prepare`, one task a split of the input.

A line end ends a sentence; within a line `sentencex` decides (rules for some 240 languages, with fallbacks;
unknown codes get its general rules; about 70 MB/s on one core). A sentence with fewer letters and digits than
`min_sentence_characters` is left out; one longer than `max_sentence_characters` is cut at the last blank
before the limit. Both are counted. With the defaults no encoder that reads 512 tokens sees the cut.

Sentences are buffered by language and split and written as parquet parts cut at document boundaries: a part when a
buffer holds `part_rows` sentences, and the largest buffer when all together hold 4 x `part_rows`. So a task
needs memory for four parts and one document, whatever it reads; a corpus that mixes 100 languages line by
line pays with smaller parts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sentencex
from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.ledger import Entry, FileRecord, put_bytes, put_file
from ccp_ray.records import BadRow, Record, Split, read_split
from ccp_ray.storage import open_store

SPLITTER = f"sentencex {importlib.metadata.version('sentencex')}"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("doc", pa.string()),
        ("lang", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("hash", pa.uint64()),
    ]
)
_BUFFERED_PARTS = 4


class SentencesConfig(StrictModel):
    """What of a document becomes a sentence."""

    languages: list[str] | None = Field(default=None, description="only these; documents of others are left out")
    min_sentence_characters: int = Field(default=2, ge=1, description="letters and digits a sentence must have")
    max_sentence_characters: int = Field(default=2000, ge=16, description="longer sentences are cut, and counted")
    dev_share: float = Field(default=0.02, ge=0, lt=1, description="held out of documents that name no split")
    part_rows: int = Field(default=65_536, ge=1, description="sentences a part, the unit of work from here on")


class RawPart(StrictModel):
    """A part as the first pass leaves it. `ids` is the key of its documents' id hashes, uint64 [documents]."""

    name: str
    lang: str
    split: str
    piece: str
    number: int
    rows: int
    documents: int
    sentences: str
    ids: str


def split_sentences(lang: str, text: str) -> list[str]:
    """Sentences in order, stripped, without empty ones."""
    out: list[str] = []
    for line in text.splitlines():
        out += [sentence for part in sentencex.segment(lang, line) if (sentence := part.strip())]
    return out


def text_hash(text: str) -> int:
    """64-bit hash of a sentence up to case, width and blanks (NFKC, casefold)."""
    return id_hash(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


def id_hash(text: str) -> int:
    """64-bit hash (blake2b) of exactly this text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def make_sentences(store_uri: str, config: SentencesConfig, piece: str, payload: str) -> Entry:
    """Read one split (JSON of `Split`), write its parts and its quarantine. `info` holds parts and counts.

    Every row is accounted for: rows of the input = `rows` + `quarantined` + `info.left_out`.
    """
    with tempfile.TemporaryDirectory() as folder:
        quarantine = Quarantine(Path(folder) / "rows.jsonl")
        writer = _Writer(store_uri, config, piece)
        for row in read_split(Split.model_validate_json(payload)):
            bad = row if isinstance(row, BadRow) else writer.add(row)
            if bad is not None:
                quarantine.add(bad)
        writer.close()
        files = writer.files + quarantine.put(store_uri, f"quarantine/{piece}.jsonl")
    info: dict[str, Any] = {"parts": [part.model_dump() for part in writer.parts], **writer.counts}
    info["first_bad"] = list(quarantine.first) if quarantine.first else None
    return Entry(rows=writer.documents, quarantined=quarantine.rows, files=files, info=info)


class Quarantine:
    """Bad rows as JSON lines in a local file, so that any number of them takes no memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.first: BadRow | None = None

    def add(self, row: BadRow) -> None:
        self.first = self.first or row
        self.rows += 1
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")

    def put(self, store_uri: str, key: str) -> list[FileRecord]:
        """Upload the file if there is one."""
        return [put_file(open_store(store_uri), key, self.path)] if self.rows else []


class _Writer:
    def __init__(self, store_uri: str, config: SentencesConfig, piece: str) -> None:
        self.store, self.config, self.piece = open_store(store_uri), config, piece
        self.files: list[FileRecord] = []
        self.parts: list[RawPart] = []
        self.documents = 0
        self.counts = {"left_out": 0, "short": 0, "long": 0}
        self._wanted = set(config.languages) if config.languages is not None else None
        self._buffers: dict[tuple[str, str], _Buffer] = {}
        self._written: dict[tuple[str, str], int] = {}

    def add(self, document: Record) -> BadRow | None:
        if self._wanted is not None and document.lang not in self._wanted:
            self.counts["left_out"] += 1
            return None
        sentences = [self._cut(s) for s in split_sentences(document.lang, document.text) if self._long_enough(s)]
        if not sentences:
            reason = f"no sentence with {self.config.min_sentence_characters} letters or digits"
            return BadRow(document.source, document.row, reason, document.text[:200])
        group = (document.lang, document.split or self._split(document.id))
        self._buffers.setdefault(group, _Buffer()).add(document, sentences)
        self.documents += 1
        if self._buffers[group].rows >= self.config.part_rows:
            self._flush(group)
        elif sum(buffer.rows for buffer in self._buffers.values()) >= _BUFFERED_PARTS * self.config.part_rows:
            self._flush(max(self._buffers, key=lambda name: (self._buffers[name].rows, name)))
        return None

    def close(self) -> None:
        for group in sorted(self._buffers):
            self._flush(group)

    def _split(self, document: str) -> str:
        return "dev" if id_hash(document) < self.config.dev_share * 2**64 else "train"

    def _long_enough(self, sentence: str) -> bool:
        least = self.config.min_sentence_characters
        enough = sum(character.isalnum() for character in sentence[: 8 * least]) >= least or (
            sum(character.isalnum() for character in sentence) >= least
        )
        self.counts["short"] += not enough
        return enough

    def _cut(self, sentence: str) -> str:
        limit = self.config.max_sentence_characters
        if len(sentence) <= limit:
            return sentence
        self.counts["long"] += 1
        while limit > 1 and unicodedata.combining(sentence[limit]):
            limit -= 1
        head, blank, _ = sentence[: limit + 1].rpartition(" ")
        return head.rstrip() if blank and len(head) > limit // 2 else sentence[:limit]

    def _flush(self, group: tuple[str, str]) -> None:
        lang, split = group
        number = self._written.get(group, 0)
        self._written[group] = number + 1
        buffer = self._buffers.pop(group)
        stem = f"{split}-{self.piece}-{number:04d}"
        part = RawPart(
            name=f"{lang}-{stem}",
            lang=lang,
            split=split,
            piece=self.piece,
            number=number,
            rows=buffer.rows,
            documents=len(buffer.ids),
            sentences=f"sentences/{lang}/{stem}.parquet",
            ids=f"_work/ids/{lang}/{stem}.npy",
        )
        self.files.append(put_bytes(self.store, part.sentences, table_bytes(buffer.table(lang))))
        self.store.write(part.ids, array_bytes(np.array([id_hash(i) for i in buffer.ids], dtype=np.uint64)))
        self.parts.append(part)


class _Buffer:
    def __init__(self) -> None:
        self.rows = 0
        self.ids: list[str] = []
        self._sentences: list[list[str]] = []

    def add(self, document: Record, sentences: list[str]) -> None:
        self.ids.append(document.id)
        self._sentences.append(sentences)
        self.rows += len(sentences)

    def table(self, lang: str) -> pa.Table:
        pairs = list(zip(self.ids, self._sentences, strict=True))
        texts = [text for _, sentences in pairs for text in sentences]
        return pa.table(
            {
                "id": [f"{doc}#{i}" for doc, sentences in pairs for i in range(len(sentences))],
                "doc": [doc for doc, sentences in pairs for _ in sentences],
                "lang": [lang] * len(texts),
                "position": [i for _, sentences in pairs for i in range(len(sentences))],
                "text": texts,
                "hash": np.fromiter(map(text_hash, texts), dtype=np.uint64, count=len(texts)),
            },
            schema=SCHEMA,
        )


def table_bytes(table: pa.Table) -> bytes:
    """A parquet file; the same table gives the same bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def array_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """A `.npy` file."""
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()
