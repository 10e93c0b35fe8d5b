"""XOR-Retrieve's files: questions with English answers, and the English passages they are looked for in.

    xor_SPLIT_retrieve_eng_span[_v1_1].jsonl[.gz]   {"id", "question", "answers": [...], "lang", "split"}
    *.tsv[.gz]                                      id<TAB>text<TAB>title, as DPR's (`ccp_ray.passages`)

One language of the training set is written `" ar"`, with a blank: codes are stripped.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import PACKED
from ccp_ray.storage import Store, open_store
from ccp_ray.text_lines import json_objects


class Answered(NamedTuple):
    """A question and its gold answers."""

    lang: str
    text: str
    answers: list[str]


def find_questions(data: str, split: str) -> str:
    """URI of a split's questions, in `data` or `data/xor_retrieve`. Raises UsageError where there is none, or two."""
    wanted = f"xor_{split}_retrieve_eng_span"
    for store in _places(data):
        found = [key for key in _files(store) if key.startswith(wanted) and _plain(key).endswith((".jsonl", ".json"))]
        if len(found) > 1:
            raise UsageError(f"{store.root}: {' and '.join(found)} are both questions of {split}; keep one")
        if found:
            return store.uri(found[0])
    raise UsageError(f"{data}: no {wanted}*.jsonl here or in xor_retrieve/, the questions of XOR-Retrieve's {split}")


def find_passages(data: str, chosen: str | None, questions: str) -> str | None:
    """URI of the passages: the chosen file, or the one TSV; None where there is none. Raises UsageError for several.

    The folder of the `questions` (their URI) comes first: a TSV in the other one may be of another benchmark.
    """
    for store in sorted(_places(data), key=lambda store: store.uri(questions.rpartition("/")[2]) != questions):
        found = [key for key in _files(store) if _plain(key).endswith(".tsv")]
        if chosen in found:
            return store.uri(chosen)
        if found and chosen is None:
            if len(found) > 1:
                raise UsageError(
                    f"{store.root}: {', '.join(found)}: which one has the passages? Set xor_retrieve.passages"
                )
            return store.uri(found[0])
    if chosen is not None:
        raise UsageError(f"{data}: no file {chosen} here or in xor_retrieve/ (xor_retrieve.passages)")
    return None


def _places(data: str) -> list[Store]:
    return [open_store(data), open_store(f"{data.rstrip('/')}/xor_retrieve")]


def _files(store: Store) -> list[str]:
    return [info.key for info in store.list() if "/" not in info.key]


def _plain(key: str) -> str:
    for ending in PACKED:
        key = key.removesuffix(ending)
    return key


def read_questions(uri: str, split: str) -> dict[str, Answered]:
    """{id: question} in the file's order.

    Raises DataError naming the line of a bad one, of one whose id came before, and of one that says another split.
    """
    found: dict[str, Answered] = {}
    lines: dict[str, int] = {}
    for number, row in json_objects(uri):
        where = f"{uri}, line {number}"
        for field in ("id", "question", "lang"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise DataError(f'{where}: no "{field}", or no text in it; expected XOR-Retrieve\'s questions')
        answers = row.get("answers")
        if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
            raise DataError(f'{where}: "answers" is no list of strings; expected XOR-Retrieve\'s questions')
        if row.get("split", split) != split:
            raise DataError(
                f'{where}: "split" is {row["split"]!r}; expected questions of {split}, as the file is named'
            )
        if row["id"] in lines:
            raise DataError(f"{where}: question id {row['id']!r} came before, at line {lines[row['id']]}")
        found[row["id"]] = Answered(row["lang"].strip(), row["question"], answers)
        lines[row["id"]] = number
    if not found:
        raise DataError(f"{uri}: no questions")
    return found
