"""The plan of an embedding: pieces of rows, each named by what decides its vectors.

A piece's name is a digest of the rows' bytes (the sha256 of their parquet object and how many of them are taken), the
encoder's fingerprint and the settings that touch a vector. So the same rows have the same name in another output, in
another place, beside other rows: that is what lets a grown corpus take over what is embedded already.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ccp_ray.artifact import digest_json
from ccp_ray.corpus import Corpus
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.rows import ImportedPart

_NAME = 32  # hexadecimal digits: 128 bits


class Piece(NamedTuple):
    """The first `rows` rows of a parquet object with id, lang and text."""

    name: str
    uri: str
    key: str
    rows: int
    sha256: str


def corpus_plan(corpus: Corpus, encoder: str, config: EmbedConfig) -> list[Piece]:
    """One piece a part of the corpus, up to `limit` rows of each language. encoder: its fingerprint."""
    plan: list[Piece] = []
    taken: dict[str, int] = {}
    sums = {record.path: record.sha256 for record in corpus.artifact.files}
    for part in corpus.parts(config.split):
        room = part.rows if config.limit is None else min(part.rows, config.limit - taken.get(part.lang, 0))
        if room > 0:
            taken[part.lang] = taken.get(part.lang, 0) + room
            sha256 = sums[part.sentences]
            name = piece_name(sha256, room, encoder, config)
            plan.append(Piece(name, corpus.artifact.uri, part.sentences, room, sha256))
    return plan


def imported_plan(parts: Iterable[ImportedPart], uri: str, encoder: str, config: EmbedConfig) -> list[Piece]:
    """One piece a part below `uri`."""
    return [
        Piece(piece_name(part.sha256, part.rows, encoder, config), uri, part.key, part.rows, part.sha256)
        for part in parts
    ]


def piece_name(sha256: str, rows: int, encoder: str, config: EmbedConfig) -> str:
    """sha256: of the object that holds the rows; encoder: its fingerprint."""
    return digest_json({"object": sha256, "rows": rows, "encoder": encoder, "config": config.of_a_row()})[:_NAME]
