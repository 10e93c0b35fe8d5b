"""ccp-ray search INDEX "TEXT"… | --queries FILE…: the nearest texts of an index. Needs Ray only to search by actors."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Annotated

import typer

from ccp_ray.batch_search import Answered, search_files
from ccp_ray.errors import UsageError
from ccp_ray.index_recall import AS_IT_IS
from ccp_ray.progress import say
from ccp_ray.run_files import check_place, trec_lines, write_run
from ccp_ray.search import Hit, Index
from ccp_ray.session import ray_session
from jobs.command import Address, AsJson, cluster_session, main, native_noise_aside, reported

Queries = Annotated[
    list[str] | None,
    typer.Option(help='.jsonl ("id", "text", "lang"), .tsv (id, tab, text) or an embeddings artifact; repeatable.'),
]
RunFile = Annotated[str | None, typer.Option("--output", "-o", help="File or s3:// URI: .trec, .run or .parquet.")]
Lang = Annotated[str | None, typer.Option(help="Language of queries that name none (a calibrated index needs it).")]
Prompt = Annotated[str | None, typer.Option(help='Put before each query text, for example "query: ".')]
Actors = Annotated[int | None, typer.Option(min=1, help="Search by this many Ray actors; --address alone: one a CPU.")]


def search(
    index: str,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT…")] = None,
    queries: Queries = None,
    output: RunFile = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results a query.")] = 10,
    lang: Lang = None,
    only: Annotated[str | None, typer.Option(help="Only results in this language.")] = None,
    prompt: Prompt = None,
    actors: Actors = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print the nearest texts of an index, or write those of many queries as a TREC run or parquet.

    An index holds raw vectors or calibrated ones, and queries are treated as its rows were: a calibrated index needs
    the language of each query, from its row or from --lang.
    """
    with reported():
        _check(texts, queries, output)
        # Nothing is printed before all went well; what Ray's core says meanwhile is kept off the screen.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
            with _opened(index, actors, address) as opened:
                _check_only(opened, only)
                if queries:
                    found = search_files(opened, queries, k, only, lang=lang, prompt=prompt)
                    _answer_queries(opened, found, output, as_json, answer)
                else:
                    hits = opened.search(texts or (), k, only, lang=lang, prompt=prompt)
                    _answer_texts(opened, texts or (), hits, as_json, answer)
                told = describe(opened, prompt)
            say(f"ccp-ray: {told}")
            answer.seek(0)
            shutil.copyfileobj(answer, sys.stdout)


def _approximate(index: Index) -> str:
    """By which factory, and the recall that was measured with the parameters in use."""
    summary = index.artifact.summary
    kind, recall = f"approximate ({summary['factory']}", summary["recall"]
    if recall is None:
        return f"{kind}, recall not measured)"
    reached = recall["by_parameters"][recall["chosen"] or AS_IT_IS]
    used = f" with {recall['chosen']}" if recall["chosen"] else ""
    return f"{kind}, recall@{recall['k']} {reached:.3f}{used})"


def describe(index: Index, prompt: str | None) -> str:
    """What was searched, and how queries were treated."""
    parts = [f"{index.rows:,} rows", f"{index.metric}, {'exact' if index.exact else _approximate(index)}"]
    calibrated = index.queries.calibrated
    parts.append("calibrated by language, queries too" if calibrated else "raw vectors, not calibrated")
    if prompt is not None:
        parts.append(f"queries begin with {prompt!r}")
    return f"{index.artifact.uri}: {'; '.join(parts)}"


@contextlib.contextmanager
def _opened(uri: str, actors: int | None, address: str | None) -> Iterator[Index]:
    """The index in this process, or in actors on a cluster (without an address: on a local Ray)."""
    if actors is None and address is None:
        with Index.open(uri) as index:
            yield index
    else:
        session = cluster_session(address, uri, writes=False) if address else ray_session()
        with native_noise_aside(), session, Index.open(uri, actors=actors or 0) as index:
            yield index


def _check(texts: Sequence[str] | None, queries: Sequence[str] | None, output: str | None) -> None:
    if bool(texts) == bool(queries):
        raise UsageError("say what to search: either TEXT arguments or --queries FILE")
    if output is not None and not queries:
        raise UsageError("--output: holds the results of --queries; those of TEXT arguments go to the screen")
    if output is not None:
        check_place(output)  # searching may take hours


def _check_only(index: Index, only: str | None) -> None:
    if only is not None and only not in index.languages:
        raise UsageError(f"--only {only}: no text in this language; the index holds {', '.join(index.languages)}")


def _answer_queries(
    index: Index, found: Iterable[Answered], output: str | None, as_json: bool, answer: IO[str]
) -> None:
    if output is not None:
        written = write_run((block.hits for block in found), output)
        if as_json:
            _json({"index": index.artifact.uri, "output": output} | written._asdict(), answer)
        else:
            answer.write(f"{written.hits:,} hits of {written.queries:,} queries at {output}\n")
    elif as_json:
        rows = [{"id": name, "hits": hits} for block in found for name, hits in _by_query(block)]
        _json({"index": index.artifact.uri, "queries": rows}, answer)
    else:
        for block in found:
            answer.writelines(trec_lines(block.hits))


def _answer_texts(index: Index, texts: Sequence[str], found: list[list[Hit]], as_json: bool, answer: IO[str]) -> None:
    if as_json:
        rows = [{"id": str(n), "hits": [hit._asdict() for hit in hits]} for n, hits in enumerate(found, start=1)]
        _json({"index": index.artifact.uri, "queries": rows}, answer)
        return
    for text, hits in zip(texts, found, strict=True):
        answer.write(f"{text}\n")
        for rank, hit in enumerate(hits, start=1):
            answer.write(f"{rank:>4}  {hit.score:.4f}  {hit.lang:<4} {hit.text}  [{hit.id}]\n")


def _by_query(block: Answered) -> Iterable[tuple[str, list[dict[str, object]]]]:
    hits: dict[str, list[dict[str, object]]] = {name: [] for name in block.queries}
    for row in block.hits.select(["query", *Hit._fields]).to_pylist():
        hits[row.pop("query")].append(row)
    return hits.items()


def _json(value: Mapping[str, object], answer: IO[str]) -> None:
    answer.write(json.dumps(value, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(search)
