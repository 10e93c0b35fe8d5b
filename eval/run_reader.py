"""Runs of any system: TREC run files and XOR-Retrieve's predictions in, hits in order out; and out again.

    qid Q0 docid rank score tag          TREC, parted by blanks or tabs: .trec, .run, .txt, .tsv, also .gz or .zst
    [{"id", "lang", "ctxs": [text, ...]}]   XOR-Retrieve's official JSON, best passage first

**Order.** trec_eval ignores the rank column. It sorts by score, which it keeps in single precision, and breaks ties by
document id, the *larger* id (byte by byte) first. The hits here have that order, so rank-based numbers computed from
them are trec_eval's, whatever order the file's lines had. (Our own search breaks ties by the smaller id first: where
scores tie, what is scored is trec_eval's order and not ours.)

700,000 hits of 7,000 questions are read and ordered in about 2 s on one core.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import PACKED
from ccp_ray.storage import open_store, read_uri
from ccp_ray.text_lines import all_lines
from eval.ranked import Hit, Run

_COLUMNS = 6
RUN_ENDINGS = (".trec", ".run", ".txt", ".tsv")


def trec_order(hits: Iterable[Hit]) -> list[Hit]:
    """Hits as trec_eval ranks them: by score in single precision, ties by the larger id first."""
    some = list(hits)
    single_N = np.array([hit.score for hit in some], dtype=np.float32)
    if bool((single_N[:-1] > single_N[1:]).all()):
        return some
    # Code points order as UTF-8 bytes do, so comparing str is strcmp of the files' bytes.
    keys = sorted(zip(single_N.tolist(), [hit.id for hit in some], range(len(some)), strict=True), reverse=True)
    return [some[place] for _, _, place in keys]


def read_run(uri: str) -> dict[str, list[Hit]]:
    """{question id: hits in trec_eval's order} of a TREC run file.

    Raises UsageError where there is no such file, DataError naming the line that is no hit, or repeats one.
    """
    _check_ending(uri)
    with _collection_paused():
        return _parse(uri, all_lines(uri))


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """A million small objects, none of them garbage: Python's collector would look at them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(uri: str, lines: Sequence[str]) -> dict[str, list[Hit]]:
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        row = line.split()
        if len(row) != _COLUMNS:
            if not row:
                continue
            raise DataError(
                f"{uri}, line {number}: {len(row)} columns, expected six of a TREC run: qid Q0 docid rank score tag"
            )
        query, _, doc, _, score, _ = row
        hits = found.get(query)
        if hits is None:
            hits = found[query] = {}
        if doc in hits:
            raise DataError(f"{uri}, line {number}: document {doc!r} comes twice for question {query!r}")
        try:
            hits[doc] = float(score)
        except ValueError:
            raise DataError(f"{uri}, line {number}: score {score!r} is not a number (column 5 of a TREC run)") from None
    if not found:
        raise DataError(f"{uri}: no hits; expected lines of a TREC run: qid Q0 docid rank score tag")
    _check_finite(uri, lines, found)
    return {query: trec_order(map(Hit, hits, hits.values())) for query, hits in found.items()}


def _check_ending(uri: str) -> None:
    plain = uri
    for ending in PACKED:
        plain = plain.removesuffix(ending)
    if not plain.endswith(RUN_ENDINGS):
        raise UsageError(
            f"{uri}: a run file ends in {', '.join(RUN_ENDINGS)}, with .gz or .zst if it is packed "
            "(predictions of XOR-Retrieve in .json)"
        )


def _check_finite(uri: str, lines: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> None:
    if not all(math.isfinite(sum(hits.values())) for hits in found.values()):
        for number, row in enumerate(map(str.split, lines), 1):
            if row and not math.isfinite(float(row[4])):
                raise DataError(f"{uri}, line {number}: score {row[4]!r} is not finite")


def read_runs(folder: str, languages: Iterable[str]) -> Run:
    """{language: run} of the files LANG.trec (or another ending of runs) in a folder: Mr.TyDi's ids are by language.

    Languages without a file are left out. Raises UsageError if all are, or if one has two files.
    """
    store = open_store(folder)
    keys = [info.key for info in store.list() if "/" not in info.key]
    endings = [f"{ending}{pack}" for ending in RUN_ENDINGS for pack in ("", *PACKED)]
    runs: dict[str, Mapping[str, Sequence[Hit]]] = {}
    wanted = sorted(set(languages))
    for lang in wanted:
        found = [key for key in keys if key in {f"{lang}{ending}" for ending in endings}]
        if len(found) > 1:
            raise UsageError(f"{folder}: {' and '.join(found)} are both runs of {lang}; keep one")
        if found:
            runs[lang] = read_run(store.uri(found[0]))
    if not runs:
        raise UsageError(f"{folder}: no run files LANG.trec, of none of {', '.join(wanted)}")
    return runs


def read_predictions(uri: str) -> Run:
    """XOR-Retrieve's predictions: {language: {question id: hits with texts}}, in the file's order.

    Language codes are stripped, as those of the questions are. A hit's id is its rank, its score the negative rank.
    Raises UsageError where there is no such file, DataError for what is not the official format (naming the line, or
    the number of the prediction), for a question that comes twice, and where there is no prediction.
    """
    try:
        rows = json.loads(read_uri(uri))
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{uri}, line {error.lineno}: not JSON ({error.msg}); {_EXPECTED}") from None
    if not isinstance(rows, list):
        raise DataError(f"{uri}: a JSON {type(rows).__name__}; {_EXPECTED}")
    if not rows:
        raise DataError(f"{uri}: no predictions, the list is empty")
    runs: dict[str, dict[str, list[Hit]]] = {}
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{uri}, prediction {number}"
        if not _is_prediction(row):
            raise DataError(f"{where}: {_EXPECTED}")
        if row["id"] in seen:
            raise DataError(f"{where}: question {row['id']!r} came before, as prediction {seen[row['id']]}")
        seen[row["id"]] = number
        hits = [Hit(str(rank), -float(rank), text) for rank, text in enumerate(row["ctxs"], 1)]
        runs.setdefault(row["lang"].strip(), {})[row["id"]] = hits
    return runs


_EXPECTED = 'expected XOR-Retrieve\'s [{"id": "…", "lang": "…", "ctxs": ["text", …]}, …], texts best first'


def _is_prediction(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("id"), str)
        and isinstance(row.get("lang"), str)
        and isinstance(row.get("ctxs"), list)
        and all(isinstance(text, str) for text in row["ctxs"])
    )


def to_predictions(run: Run) -> bytes:
    """The official JSON of a run whose hits have texts; the same run gives the same bytes."""
    rows = [
        {"id": name, "lang": lang, "ctxs": [hit.text for hit in hits]}
        for lang, questions in run.items()
        for name, hits in questions.items()
    ]
    return json.dumps(rows, ensure_ascii=False).encode()


def to_trec(run: Mapping[str, Sequence[Hit]], tag: str) -> bytes:
    """One language's run as a TREC file. Scores keep all their digits, so the file is ranked as the run is.

    Raises DataError for an id with a blank.
    """
    lines = []
    for query, hits in run.items():
        for rank, hit in enumerate(hits, 1):
            if len(query.split()) != 1 or len(hit.id.split()) != 1:
                raise DataError(f"question {query!r}, document {hit.id!r}: a TREC run has no ids with blanks")
            lines.append(f"{query} Q0 {hit.id} {rank} {hit.score!r} {tag}\n")
    return "".join(lines).encode()
