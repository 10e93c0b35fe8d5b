"""ccp-ray search INDEX "TEXT"… | --queries FILE: the nearest texts by cosine. Needs no Ray."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ccp_ray.errors import DataError, UsageError
from ccp_ray.search import Hit, Index
from ccp_ray.storage import read_uri
from jobs.command import AsJson, main, print_json, reported


def search(
    index: str,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT…")] = None,
    queries: Annotated[str | None, typer.Option(help='JSON lines with "id" and "text"; prints a TREC run.')] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results a query.")] = 10,
    lang: Annotated[str | None, typer.Option(help="Language of the queries (a calibrated index needs it).")] = None,
    only: Annotated[str | None, typer.Option(help="Only results in this language.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the nearest texts of an index."""
    with reported():
        if bool(texts) == bool(queries):
            raise UsageError("say what to search: either TEXT arguments or --queries FILE")
        asked = read_queries(queries) if queries else [(str(n), text) for n, text in enumerate(texts or (), start=1)]
        opened = Index.open(index)
        if only is not None and only not in opened.languages:
            raise UsageError(f"--only {only}: no text in this language; the index holds {', '.join(opened.languages)}")
        vectors_QD = opened.embed_queries([text for _, text in asked], lang)
        found = opened.search(vectors_QD, k, only)
    if as_json:
        rows = [
            {"id": name, "hits": [hit._asdict() for hit in hits]} for (name, _), hits in zip(asked, found, strict=True)
        ]
        print_json({"index": opened.artifact.uri, "queries": rows})
    elif queries:
        print("\n".join(trec_lines(asked, found)))
    else:
        for (_, text), hits in zip(asked, found, strict=True):
            print(f"{text}")
            for rank, hit in enumerate(hits, start=1):
                print(f"{rank:>4}  {hit.score:.4f}  {hit.lang:<4} {hit.text}  [{hit.id}]")


def trec_lines(asked: list[tuple[str, str]], found: list[list[Hit]]) -> list[str]:
    """`qid Q0 docid rank score run`, the run format of trec_eval."""
    return [
        f"{name} Q0 {hit.id} {rank} {hit.score:.6f} ccp-ray"
        for (name, _), hits in zip(asked, found, strict=True)
        for rank, hit in enumerate(hits, start=1)
    ]


def read_queries(uri: str) -> list[tuple[str, str]]:
    """(id, text) of each line. Raises DataError naming the first bad line."""
    out = []
    for number, line in enumerate(read_uri(uri).splitlines(), start=1):
        out.append(_query(uri, number, line))
    if not out:
        raise DataError(f"{uri}: no queries")
    return out


def _query(uri: str, number: int, line: bytes) -> tuple[str, str]:
    try:
        row = json.loads(line)
        return str(row["id"]), str(row["text"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f'{uri}, line {number}: expected a JSON object with "id" and "text"') from None


if __name__ == "__main__":
    main(search)
