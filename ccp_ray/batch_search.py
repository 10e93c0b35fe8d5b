"""Many queries against an index, in blocks: files in, tables of hits out, with the memory of one block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from ccp_ray.artifact import open_artifact
from ccp_ray.errors import UsageError
from ccp_ray.query_files import read_queries, with_languages
from ccp_ray.search import Index


class Answered(NamedTuple):
    """The ids of a block's queries, and their hits: query (its id), rank, id, score, lang, text."""

    queries: list[str]
    hits: pa.Table


def search_files(
    index: Index,
    uris: Sequence[str],
    k: int = 10,
    only: str | None = None,
    *,
    lang: str | None = None,
    prompt: str | None = None,
    block: int = 4096,
) -> Iterator[Answered]:
    """Hits of the queries of some files (`ccp_ray.query_files`), block by block.

    `lang` is the language of queries that name none, `prompt` is put before each text. Vectors of an embeddings
    artifact are calibrated by the language of their rows if the index is calibrated, else taken as they are.
    Raises UsageError where vectors come from another encoder than the index', DataError naming a bad line.
    """
    checked = ""
    for found in read_queries(uris, block):
        asked = with_languages(found, lang, index.queries.languages) if index.queries.calibrated else found
        vectors_QD = asked.vectors_QD
        if vectors_QD is None:
            vectors_QD = index.queries.encode(asked.texts, asked.languages, prompt)
        else:
            if checked != asked.uri:
                _check_encoder(index, asked.uri)
                checked = asked.uri
            vectors_QD = index.queries.calibrate(vectors_QD, asked.languages)
        table = index.search_table(vectors_QD, k, only)
        ids = pa.array(asked.ids, pa.large_string()).take(table.column("query"))
        yield Answered(asked.ids, table.set_column(0, "query", ids))


def _check_encoder(index: Index, uri: str) -> None:
    """Vectors of two encoders may have one width, and their products mean nothing."""
    inputs = open_artifact(uri, "embeddings").inputs
    encoders = {ref.fingerprint for ref in inputs if ref.role == "encoder"}
    if index.artifact.summary["encoder"]["fingerprint"] not in encoders:
        raise UsageError(f"{uri}: embedded with another encoder than the index; embed the queries with it")
