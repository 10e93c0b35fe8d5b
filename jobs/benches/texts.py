"""The text of the benches: sentences of real documents, or of generated ones whose lengths are those of novels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.documents import find_documents, plan_splits
from ccp_ray.errors import DataError
from ccp_ray.records import BadRow, read_split
from ccp_ray.sentences import split_sentences
from jobs.benches.training import generated_documents

_LEAST = 2  # characters; as `prepare` has it, but for punctuation


class Texts(NamedTuple):
    """Sentences as (language, text), and how many of them differ in origin: a short source is read over and over."""

    rows: list[tuple[str, str]]
    read: int

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.rows]

    def describe(self, documents: Sequence[str]) -> dict[str, object]:
        source = [Path(name).name for name in documents] or "generated"
        return {"text": source, "texts": len(self.rows), "distinct": min(self.read, len(self.rows))}


def bench_texts(documents: Sequence[str], count: int, scratch: Path) -> Texts:
    """The first `count` sentences of the documents, from the start again where they have fewer.

    documents: none for generated ones, which are written below `scratch`. Raises DataError where there is no sentence.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    inputs = list(documents) or [generated_documents(scratch)]
    found = list(islice(_sentences(inputs), count))
    if not found:
        raise DataError(f"{', '.join(inputs)}: no sentence to encode; name files of documents with text")
    return Texts(list(islice(cycle(found), count)), len(found))


def write_texts(texts: Texts, path: Path) -> Path:
    """A parquet file (id, lang, text) that `embed` reads."""
    ids = [f"t{number:08d}" for number in range(len(texts.rows))]
    table = pa.table({"id": ids, "lang": [lang for lang, _ in texts.rows], "text": texts.texts})
    pq.write_table(table, path, compression="zstd")
    return path


def _sentences(inputs: Sequence[str]) -> Iterator[tuple[str, str]]:
    for split in plan_splits(find_documents(inputs)):
        for record in read_split(split):
            if not isinstance(record, BadRow):
                yield from ((record.lang, text) for text in split_sentences(record.lang, record.text) if _fit(text))


def _fit(text: str) -> bool:
    return sum(character.isalnum() for character in text) >= _LEAST
