"""How many questions the sources of a fine-tuning hold, and how long their texts are, for plans.

Sources of up to 64 MiB are read whole, as the run reads them, in a second or two. Of a larger file the first questions
say how long texts are, and the fields that every row has once say how many there are in its first 64 MiB; the rest is
taken for the same. Mr.TyDi's topics are small and counted; its documents are not searched for the passages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from ccp_ray.errors import DataError
from ccp_ray.judged import read_topics
from ccp_ray.lines import SourceFile
from ccp_ray.pair_sources import Asked, SourceConfig, read_source
from ccp_ray.sentences import text_hash
from jobs.row_counts import READ_BYTES, count_rows, head

_SAMPLE = 500
_BYTES_A_TOKEN = 4.5  # of text in UTF-8, special tokens included
_FIELDS = (b'"positive_ctxs"', b'"positive_passages"')  # of DPR's and Tevatron's rows
_SQUAD_FIELD = b'"question"'


class QuestionCounts(NamedTuple):
    """passages: positives, and hard negatives up to those that are kept, each text once within a source. Bytes are of
    one text as it is named, on average."""

    questions: int
    passages: int
    question_bytes: float
    passage_bytes: float
    exact: bool

    @property
    def told(self) -> str:
        return f"{'' if self.exact else 'about '}{self.questions:,} questions"

    def question_tokens(self, most: int) -> float:
        return min(most, self.question_bytes / _BYTES_A_TOKEN + 2)

    def passage_tokens(self, most: int) -> float:
        return min(most, self.passage_bytes / _BYTES_A_TOKEN + 2)


def count_questions(sources: Sequence[SourceConfig], negatives: int, answers_suffice: bool = False) -> QuestionCounts:
    """Of all sources together; `negatives` of a question are kept. answers_suffice: as of `read_source`.

    Raises UsageError for a file that is not there, DataError for one that is broken, or without a question.
    """
    found = [_of_source(source, negatives, answers_suffice) for source in sources]
    count, passages = sum(one.questions for one in found), sum(one.passages for one in found)
    return QuestionCounts(
        count,
        passages,
        sum(one.questions * one.question_bytes for one in found) / count,
        sum(one.passages * one.passage_bytes for one in found) / max(passages, 1),
        all(one.exact for one in found),
    )


def _of_source(source: SourceConfig, negatives: int, answers_suffice: bool) -> QuestionCounts:
    files, usable = source.files(), (row for row in read_source(source, answers_suffice) if isinstance(row, Asked))
    if sum(file.bytes for file in files) <= READ_BYTES:
        return _measured(source, usable, negatives)
    if source.file is None:
        topics = read_topics(source.topics or "").values()
        rows = count_rows(source.docs or "")
        mean = sum(len(question.encode()) for question in topics) / len(topics)
        return QuestionCounts(len(topics), len(topics), mean, rows.bytes / max(rows.rows, 1), False)
    sample, count = _measured(source, islice(usable, _SAMPLE), negatives), _fields(files[0])
    return sample._replace(questions=count, passages=round(count * sample.passages / sample.questions), exact=False)


def _measured(source: SourceConfig, rows: Iterable[Asked], negatives: int) -> QuestionCounts:
    count = texts = question_bytes = passage_bytes = 0
    distinct: set[int] = set()
    for row in rows:
        named = [passage.whole for passage in (*row.positives, *row.negatives[:negatives])]
        distinct.update(map(text_hash, named))
        count, texts = count + 1, texts + len(named)
        question_bytes += len(row.question.encode())
        passage_bytes += sum(len(text.encode()) for text in named)
    if not count:
        raise DataError(f"{source.files()[0].uri}: no question that could be used")
    return QuestionCounts(count, len(distinct), question_bytes / count, passage_bytes / max(texts, 1), True)


def _fields(file: SourceFile) -> int:
    """Rows of a file, by a field that each has, in the first part of it. A field that two chunks share is not seen."""
    rows = questions = 0
    for chunk in head(file, READ_BYTES):
        rows += sum(chunk.count(field) for field in _FIELDS)
        questions += chunk.count(_SQUAD_FIELD)
    return round((rows or questions) * file.bytes / min(file.bytes, READ_BYTES))
