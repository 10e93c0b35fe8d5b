"""Read a corpus artifact: its parts, sentences, token shards and tokenizer.

    sentences/LANG/SPLIT-PIECE-PART.parquet   id, doc, lang, position, text, hash
    tokens/LANG/PIECE-PART/*.npy              what training reads (train parts only)
    tokenizer/                                a Hugging Face tokenizer folder
    parts.json                                the list of `Part`
    quarantine/*.jsonl                        source, row, reason, sample of each row that was put aside

Nothing is listed or guessed: what is not in parts.json does not exist.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.config import StrictModel
from ccp_ray.storage import LocalStore

PARTS, TOKENIZER = "parts.json", "tokenizer"
_NPY_HEADER = 128  # bytes; of every one-dimensional array that NumPy saves


class Part(StrictModel):
    """Some documents of one language and split. `sentences` is a key, `tokens` a key prefix (None: no shard)."""

    name: str
    lang: str
    split: Literal["train", "dev"]
    rows: int
    sentences: str
    tokens: str | None
    documents: int
    token_count: int


class TokenShard(NamedTuple):
    """Keys of one train part's arrays.

    tokens: uint16 or uint32 [T], without special tokens; sentences: int64 [S + 1], offsets into tokens;
    documents: int64 [D + 1], offsets into sentences, two or more sentences each; hashes: uint64 [S].
    """

    part: Part
    tokens: str
    sentences: str
    documents: str
    hashes: str


class Corpus:
    """A finished corpus."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.store = artifact.store
        self._parts = [Part.model_validate(part) for part in json.loads(artifact.read(PARTS))]

    @classmethod
    def open(cls, uri: str) -> Corpus:
        """Raises UsageError where there is no finished corpus."""
        return cls(open_artifact(uri, "corpus"))

    @property
    def languages(self) -> list[str]:
        return sorted({part.lang for part in self._parts})

    def parts(self, split: str | None = None, lang: str | None = None) -> list[Part]:
        """Parts in a fixed order: by language, split, piece of the input, number."""
        return [part for part in self._parts if split in (None, part.split) and lang in (None, part.lang)]

    def token_shards(self, lang: str | None = None) -> list[TokenShard]:
        """The arrays that training maps into memory, in the order of `parts("train", lang)`."""
        return [
            TokenShard(part, *(f"{part.tokens}/{name}.npy" for name in TokenShard._fields[1:]))
            for part in self.parts("train", lang)
            if part.tokens is not None
        ]

    def training_sentences(self, lang: str) -> int:
        """Sentences with a context, which are what training reads; from the sizes of the hashes' files."""
        sizes = {record.path: record.bytes for record in self.artifact.files}
        return sum((sizes[shard.hashes] - _NPY_HEADER) // 8 for shard in self.token_shards(lang))

    def read_sentences(self, part: Part) -> pa.Table:
        """Columns id, doc, lang, position, text, hash; [part.rows] rows in document order."""
        return pq.read_table(pa.BufferReader(self.artifact.read(part.sentences)))

    def tokenizer_folder(self, cache: Path) -> Path:
        """A local folder that `AutoTokenizer.from_pretrained` loads; copied below `cache` if the store is remote."""
        if isinstance(self.store, LocalStore):
            return self.store.path / TOKENIZER
        folder = cache / self.artifact.fingerprint[:24]
        for record in self.artifact.files:
            if record.path.startswith(f"{TOKENIZER}/") and not (folder / record.path).exists():
                self.store.download(record.path, folder / record.path)
        return folder / TOKENIZER
