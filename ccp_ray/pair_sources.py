"""Questions with the passages that answer them, read from the files the field distributes.

    DPR        JSON array or lines: {"question", "answers", "positive_ctxs": [{"title", "text"}], "hard_negative_ctxs"}
               Natural Questions as DPR has it, what `mine` writes ("id" and "lang" besides); XOR's train set, as it is
               distributed, has answers and no passages: see `mine`
    Tevatron   JSON lines: {"query_id", "query", "positive_passages": [{"docid", "title", "text"}], "negative_passages"}
    SQuAD      {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}: SQuAD, XQuAD
    Mr.TyDi    topics (`qid<TAB>question`), TREC qrels, documents ({"id", "contents"}); has no negatives: see `mine`

The first three are told apart row by row. A row that cannot be used comes out as a `BadRow`. SQuAD 2.0's questions that
nothing answers (`is_impossible`) are left out, and are no bad rows. Files are streamed; of Mr.TyDi's documents only
those that a qrels names are kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError
from ccp_ray.json_stream import read_objects
from ccp_ray.judged import read_qrels, read_topics
from ccp_ray.lines import SourceFile, source_file
from ccp_ray.passages import TITLE_END, joined
from ccp_ray.records import BadRow
from ccp_ray.text_lines import numbered_lines

_SAMPLE = 200


class SourceConfig(StrictModel):
    """Where questions come from: `file` (DPR, Tevatron, SQuAD), or topics, qrels and docs (Mr.TyDi)."""

    file: str | None = Field(default=None, description="JSON or JSON lines, plain, .gz or .zst")
    topics: str | None = Field(default=None, description="Mr.TyDi: qid, tab, question")
    qrels: str | None = Field(default=None, description="Mr.TyDi: qid Q0 docid relevance")
    docs: str | None = Field(default=None, description='Mr.TyDi: JSON lines of "id" and "contents"')
    lang: str = Field(default="und", description="of questions that name none")

    @model_validator(mode="after")
    def _consistent(self) -> SourceConfig:
        parts = (self.topics, self.qrels, self.docs)
        if (self.file is None) == (None in parts) or (self.file is not None and any(parts)):
            raise ValueError("a source is either file, or topics, qrels and docs together")
        return self

    def files(self) -> list[SourceFile]:
        """Raises UsageError where one is not there."""
        named = (self.file, self.topics, self.qrels, self.docs)
        return [source_file(uri) for uri in named if uri is not None]


class Passage(NamedTuple):
    """`id` where the source names one."""

    title: str
    text: str
    id: str = ""

    @property
    def whole(self) -> str:
        """As the encoder reads it: title, an empty line and text, as Mr.TyDi's documents have them."""
        return joined(self.title, self.text)


class Asked(NamedTuple):
    """A question, the passages that answer it, and those that only look like it, hardest first."""

    id: str
    lang: str
    question: str
    answers: list[str]
    positives: list[Passage]
    negatives: list[Passage]


def read_source(source: SourceConfig, answers_suffice: bool = False) -> Iterator[Asked | BadRow]:
    """All questions of a source, in its order. answers_suffice: also rows of a file that have no passage, but answers.

    Raises UsageError for a file that is not there, DataError naming the line of one that is broken as a whole.
    """
    if source.file is not None:
        yield from _read_file(source.file, source.lang, answers_suffice)
    else:
        yield from _read_judged(source.topics or "", source.qrels or "", source.docs or "", source.lang)


class _UnusableError(Exception):
    """What is wrong with a row."""


def _read_file(uri: str, lang: str, answers_suffice: bool) -> Iterator[Asked | BadRow]:
    for place, value in read_objects(uri):
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            yield from _squad(uri, value["data"], lang)
            continue
        name = place.partition(",")[0].replace(" ", "-")
        yield _usable(functools.partial(_row, value, name, lang), uri, place, value, answers_suffice)


def _row(value: Any, name: str, lang: str) -> Asked:
    """One question of DPR's or Tevatron's form."""
    if not isinstance(value, dict):
        raise _UnusableError(f"a JSON {type(value).__name__}, expected an object")
    if "query" in value:
        return Asked(
            _identity(value, ("query_id",), name),
            _text(value, "lang", lang),
            _text(value, "query"),
            _texts(value, "answers"),
            _passages(value, "positive_passages"),
            _passages(value, "negative_passages"),
        )
    if "question" not in value or not {"positive_ctxs", "answers"} & value.keys():
        raise _UnusableError(
            'neither "question" and "positive_ctxs" (DPR) or "answers" (XOR), nor "query" and "positive_passages" '
            "(Tevatron)"
        )
    return Asked(
        _identity(value, ("id",), name),
        _text(value, "lang", lang),
        _text(value, "question"),
        _texts(value, "answers"),
        _passages(value, "positive_ctxs"),
        _passages(value, "hard_negative_ctxs") or _passages(value, "negative_ctxs"),  # as DPR's own reader
    )


def _usable(
    make: Callable[[], Asked], uri: str, place: str, value: Any, answers_suffice: bool = False
) -> Asked | BadRow:
    """What `make` makes of a row, or what is wrong with it."""
    try:
        asked = make()
        if not asked.question.strip():
            raise _UnusableError("the question is empty")
        answered = any(answer.strip() for answer in asked.answers)
        if not asked.positives and not (answered and answers_suffice):
            raise _UnusableError(
                "no positive passage" + (", which `ccp-ray mine` finds by the answers" if answered else "")
            )
    except _UnusableError as error:
        return BadRow(uri, place, str(error), json.dumps(value)[:_SAMPLE])  # in ASCII: it may hold half characters
    return asked


def _squad(uri: str, articles: list[Any], lang: str) -> Iterator[Asked | BadRow]:
    for number, article in enumerate(articles, 1):
        try:
            title = _text(_object(article), "title", "").replace("_", " ")
            paragraphs = [
                (Passage(title, _text(_object(each), "context")), _list(each, "qas"))
                for each in _list(article, "paragraphs")
            ]
        except _UnusableError as error:
            raise DataError(f"{uri}, article {number}: {error}; expected SQuAD's form") from None
        for passage, entries in paragraphs:
            for entry in entries:
                if isinstance(entry, dict) and entry.get("is_impossible"):
                    continue
                make = functools.partial(_squad_question, passage, entry, lang)
                yield _usable(make, uri, f"article {number}", entry)


def _squad_question(passage: Passage, entry: Any, lang: str) -> Asked:
    answers = [_text(_object(each), "text") for each in _list(entry, "answers")]
    positives = [passage] if passage.text.strip() else []
    return Asked(_text(entry, "id"), lang, _text(entry, "question"), answers, positives, [])


def _read_judged(topics: str, qrels: str, docs: str, lang: str) -> Iterator[Asked | BadRow]:
    relevant = {
        name: [document for document, grade in documents.items() if grade > 0]
        for name, documents in read_qrels(qrels).items()
    }
    passages = _judged_passages(docs, {name for names in relevant.values() for name in names})
    for name, question in read_topics(topics).items():
        make = functools.partial(_judged_question, name, question, lang, relevant.get(name, []), passages)
        yield _usable(make, topics, f"question {name}", question)


def _judged_question(
    name: str, question: str, lang: str, relevant: Sequence[str], passages: Mapping[str, Passage]
) -> Asked:
    positives = [passages[each] for each in relevant if each in passages]
    if relevant and not positives:
        raise _UnusableError(f"its passage {relevant[0]!r} (qrels) is not among the documents")
    for passage in positives:
        _check_unicode(passage.whole, "contents")
    return Asked(name, lang, question, [], positives, [])


def _judged_passages(docs: str, wanted: set[str]) -> dict[str, Passage]:
    found = {}
    for number, line in numbered_lines(docs):
        try:
            row = json.loads(line)
            name, contents = row["id"], row["contents"]
            title, blank, text = contents.partition(TITLE_END)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f'{docs}, line {number}: expected a JSON object with "id" and "contents"') from None
        if name in wanted:
            found[name] = Passage(title, text, name) if blank else Passage("", contents, name)
    return found


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _UnusableError(f"a JSON {type(value).__name__} where an object was expected")
    return value


def _list(value: Any, name: str) -> list[Any]:
    found = _object(value).get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise _UnusableError(f'"{name}" is {type(found).__name__}, expected a list')
    return found


def _text(value: Mapping[str, Any], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str):
        raise _UnusableError(
            f'"{name}" is {type(found).__name__}, expected a string' if name in value else f'no "{name}"'
        )
    _check_unicode(found, name)
    return found.strip() if name == "lang" else found  # XOR's train questions have " ar"


def _texts(value: Mapping[str, Any], name: str) -> list[str]:
    found = [each for each in _list(value, name) if isinstance(each, str)]
    for each in found:
        _check_unicode(each, name)
    return found


def _identity(value: Mapping[str, Any], names: Sequence[str], default: str) -> str:
    """The first of these fields that is there, as text: ids are numbers in some files."""
    name = next((name for name in names if name in value), None)
    if name is None:
        return default
    found = str(value[name])
    _check_unicode(found, name)
    return found


def _check_unicode(text: str, name: str) -> None:
    """JSON can say half a character ("\\ud800"), which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _UnusableError(f'"{name}" is not valid Unicode (a lone surrogate)') from None


def _passages(value: Mapping[str, Any], name: str) -> list[Passage]:
    """Passages of a row; one without text is none."""
    found = []
    for each in _list(value, name):
        one = _object(each)
        passage = Passage(_text(one, "title", "") if one.get("title") is not None else "", _text(one, "text"))
        if passage.text.strip():
            found.append(passage._replace(id=_identity(one, ("docid", "passage_id", "psg_id", "id"), "")))
    return found
