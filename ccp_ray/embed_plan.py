"""The plan of an embedding: pieces of rows, each named by what decides its vectors.

A piece's name is a digest of the rows' bytes (the sha256 of their parquet object and how many of them are taken), the
encoder's fingerprint and the settings that touch a vector. So the same rows have the same name in another output, in
another place, beside other rows: that is what lets a grown corpus take over what is embedded already. Where the same
rows stand twice in the texts, the second piece's name counts them: all are embedded, and no two pieces share a name.
"""

from __future__ import annotations

from collections import Counter
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
            plan.append(Piece("", corpus.artifact.uri, part.sentences, room, sums[part.sentences]))
    return _named(plan, encoder, config)


def imported_plan(parts: Iterable[ImportedPart], uri: str, encoder: str, config: EmbedConfig) -> list[Piece]:
    """One piece a part below `uri`."""
    return _named([Piece("", uri, part.key, part.rows, part.sha256) for part in parts], encoder, config)


def piece_name(sha256: str, rows: int, encoder: str, config: EmbedConfig, before: int = 0) -> str:
    """sha256: of the object that holds the rows; encoder: its fingerprint; before: pieces of the same rows."""
    made_of = {"object": sha256, "rows": rows, "encoder": encoder, "config": config.of_a_row(), "before": before}
    return digest_json(made_of)[:_NAME]


def _named(plan: list[Piece], encoder: str, config: EmbedConfig) -> list[Piece]:
    seen: Counter[tuple[str, int]] = Counter()
    named = []
    for piece in plan:
        rows = piece.sha256, piece.rows
        named.append(piece._replace(name=piece_name(*rows, encoder, config, seen[rows])))
        seen[rows] += 1
    return named
