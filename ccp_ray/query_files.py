"""Queries to search with, in blocks: JSON lines, tab-separated lines, or an embeddings artifact.

    {"id": "q7", "text": "some text", "lang": "en"}      .jsonl, or any other ending (lang is optional)
    q7<TAB>some text                                     .tsv
    an embeddings artifact                               vectors, ids and languages of its rows

Files may end in .gz or .zst besides. An id that comes twice is an error, in whichever files: a run names queries by it.
Memory: one block (of an embeddings artifact one piece), and the ids of all queries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.artifact import find_artifact
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError
from ccp_ray.lines import PACKED, Line, source_file, whole_lines

_WRITTEN = (".jsonl", ".tsv")


class Query(NamedTuple):
    """A query of a text file."""

    id: str
    text: str
    lang: str | None = None


class QueryBlock(NamedTuple):
    """Queries as texts, or as vectors [Q, D] of the encoder, and where each stands ("line 3", "row 7")."""

    uri: str
    places: list[str]
    ids: list[str]
    languages: list[str | None]
    texts: list[str]
    vectors_QD: NDArray[np.float32] | None = None


def read_queries(uris: Sequence[str], block: int = 4096) -> Iterator[QueryBlock]:
    """The queries of all files in order, at most `block` at once.

    Raises UsageError where there is no such file, DataError naming the line of a bad query.
    """
    seen: dict[str, str] = {}
    for uri in uris:
        before = len(seen)
        for found in _embedded(uri, block) if _is_embeddings(uri) else _written(uri, block):
            for place, name in zip(found.places, found.ids, strict=True):
                if name in seen:
                    raise DataError(f"{uri}, {place}: id {name!r} came before, at {seen[name]}; give each its own")
                seen[name] = place if len(uris) == 1 else f"{uri}, {place}"
            yield found
        if len(seen) == before:
            raise DataError(f"{uri}: no queries")


def with_languages(block: QueryBlock, lang: str | None, known: Collection[str]) -> QueryBlock:
    """The block with `lang` for those without a language. Raises DataError naming a query of no known language."""
    languages = [name or lang for name in block.languages]
    for place, name in zip(block.places, languages, strict=True):
        if name not in known:
            told = "names no language" if name is None else f"language {name!r}"
            needed = "the index is calibrated by language and knows"
            hint = '; add "lang" to the line, or --lang for all that have none' if name is None else ""
            raise DataError(f"{block.uri}, {place}: {told}; {needed} {', '.join(sorted(known))}{hint}")
    return block._replace(languages=languages)


def _is_embeddings(uri: str) -> bool:
    if _unpacked_name(uri).endswith(_WRITTEN):
        return False
    artifact = find_artifact(uri)
    return artifact is not None and artifact.kind == "embeddings"


def _unpacked_name(uri: str) -> str:
    for ending in PACKED:
        uri = uri.removesuffix(ending)
    return uri


def _embedded(uri: str, block: int) -> Iterator[QueryBlock]:
    number = 0
    for vectors_ND, table in Embeddings.open(uri):
        for start in range(0, len(vectors_ND), block):
            rows = table.slice(start, block)
            places = [f"row {number + i}" for i in range(rows.num_rows)]
            ids, languages = (rows.column(name).to_pylist() for name in ("id", "lang"))
            yield QueryBlock(uri, places, ids, languages, [], vectors_ND[start : start + block])
            number += rows.num_rows


def _written(uri: str, block: int) -> Iterator[QueryBlock]:
    parse = _from_tabs if _unpacked_name(uri).endswith(".tsv") else _from_json
    numbered = enumerate(_lines(uri), start=1)
    while some := list(islice(numbered, block)):
        places = [f"line {number}" for number, _ in some]
        queries = [_query(uri, place, line, parse) for place, (_, line) in zip(places, some, strict=True)]
        ids, texts, languages = (list(column) for column in zip(*queries, strict=True))
        yield QueryBlock(uri, places, ids, languages, texts)


def _lines(uri: str) -> Iterator[Line]:
    return whole_lines(source_file(uri))


def _query(uri: str, place: str, line: Line, parse: Callable[[str], Query]) -> Query:
    try:
        query = parse(line.data.decode("utf-8-sig" if line.start == 0 else "utf-8"))
        query.text.encode()
    except UnicodeError:
        raise DataError(f"{uri}, {place}: not UTF-8 text, or a lone surrogate") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        expected = "an id, a tab and a text" if parse is _from_tabs else 'a JSON object with "id" and "text"'
        raise DataError(f"{uri}, {place}: expected {expected}") from None
    if not query.id:
        raise DataError(f"{uri}, {place}: the id is empty")
    return query


def _from_json(line: str) -> Query:
    row = json.loads(line)
    name, text, lang = row["id"], row["text"], row.get("lang")
    if not isinstance(name, str | int) or not isinstance(text, str) or not isinstance(lang, str | None):
        raise TypeError
    return Query(str(name), text, lang)


def _from_tabs(line: str) -> Query:
    name, tab, text = line.rstrip("\r").partition("\t")
    if not tab:
        raise ValueError
    return Query(name, text)
