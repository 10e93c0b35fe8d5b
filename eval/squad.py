"""SQuAD's JSON in several languages (XQuAD): paragraphs, and questions whose paragraph and answers are known.

    NAME.LANG.json    {"data": [{"title", "paragraphs": [{"context", "qas": [QA, ...]}]}]}
    QA                {"id", "question", "answers": [{"text"}]}

Articles and paragraphs are translations of one another, so a question's id is the same in all languages.
"""

from __future__ import annotations

from typing import NamedTuple

from ccp_ray.errors import DataError, UsageError
from ccp_ray.pair_sources import Passage, SourceConfig, read_source
from ccp_ray.records import BadRow
from ccp_ray.storage import open_store


class Paragraph(NamedTuple):
    """id: article number # paragraph number, as Mr.TyDi's passages are named."""

    id: str
    title: str
    text: str


class Question(NamedTuple):
    """A question about a paragraph."""

    id: str
    text: str
    answers: list[str]
    paragraph: str


class Squad(NamedTuple):
    """One language's paragraphs and questions, in the file's order."""

    paragraphs: list[Paragraph]
    questions: list[Question]


def read_squad(folder: str) -> dict[str, Squad]:
    """{language: content} of the files NAME.LANG.json. Raises UsageError where there are none, DataError for others."""
    store = open_store(folder)
    keys = [info.key for info in store.list() if info.key.endswith(".json") and info.key.count(".") == 2]
    if not keys:
        raise UsageError(f"{folder}: no files NAME.LANG.json in SQuAD's format, such as xquad.en.json")
    return {key.split(".")[1]: _read(store.uri(key)) for key in keys if "/" not in key}


def _read(uri: str) -> Squad:
    paragraphs: dict[Passage, Paragraph] = {}
    titles: list[str] = []
    questions: list[Question] = []
    for asked in read_source(SourceConfig(file=uri)):
        if isinstance(asked, BadRow):
            raise DataError(f"{uri}, {asked.row}: {asked.reason}; expected SQuAD's format")
        about = asked.positives[0]
        if about not in paragraphs:
            titles += [about.title] if titles[-1:] != [about.title] else []
            number = sum(one.title == about.title for one in paragraphs.values())
            paragraphs[about] = Paragraph(f"{len(titles) - 1}#{number}", about.title, about.text.strip())
        answers = list(dict.fromkeys(asked.answers))
        questions.append(Question(asked.id, asked.question.strip(), answers, paragraphs[about].id))
    return Squad(list(paragraphs.values()), questions)
