"""SQuAD's JSON in several languages (XQuAD): paragraphs, and questions whose paragraph and answers are known.

    NAME.LANG.json    {"data": [{"title", "paragraphs": [{"context", "qas": [QA, ...]}]}]}
    QA                {"id", "question", "answers": [{"text"}]}

Articles and paragraphs are translations of one another, so a question's id is the same in all languages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ccp_ray.errors import DataError, UsageError
from ccp_ray.storage import open_store, read_uri


class Paragraph(NamedTuple):
    """id: article number # paragraph number, as Mr.TyDi's passages are named."""

    id: str
    title: str
    text: str


class Asked(NamedTuple):
    """A question about a paragraph."""

    id: str
    text: str
    answers: list[str]
    paragraph: str


class Squad(NamedTuple):
    """One language's paragraphs and questions, in the file's order."""

    paragraphs: list[Paragraph]
    questions: list[Asked]


def read_squad(folder: str) -> dict[str, Squad]:
    """{language: content} of the files NAME.LANG.json. Raises UsageError where there are none, DataError for others."""
    store = open_store(folder)
    keys = [info.key for info in store.list() if info.key.endswith(".json") and info.key.count(".") == 2]
    if not keys:
        raise UsageError(f"{folder}: no files NAME.LANG.json in SQuAD's format, such as xquad.en.json")
    return {key.split(".")[1]: _read(store.uri(key)) for key in keys if "/" not in key}


def _read(uri: str) -> Squad:
    found = Squad([], [])
    try:
        for paragraph, qas in _paragraphs(json.loads(read_uri(uri))):
            found.paragraphs.append(paragraph)
            for qa in qas:
                answers = list(dict.fromkeys(str(answer["text"]) for answer in qa["answers"]))
                found.questions.append(Asked(str(qa["id"]), str(qa["question"]).strip(), answers, paragraph.id))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri}: not SQuAD's format ({type(error).__name__}: {error})") from None
    return found


def _paragraphs(content: Any) -> Iterator[tuple[Paragraph, list[Any]]]:
    for article, entry in enumerate(content["data"]):
        title = str(entry.get("title", f"article {article}")).replace("_", " ")
        for number, paragraph in enumerate(entry["paragraphs"]):
            yield Paragraph(f"{article}#{number}", title, str(paragraph["context"]).strip()), paragraph["qas"]
