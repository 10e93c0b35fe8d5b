"""LAReQA's XQuAD-R as it is distributed (Roy et al. 2020, arXiv 2004.05484): LANG.json, SQuAD's format and breaks.

    {"data": [{"paragraphs": [{
        "context": the paragraph,
        "sentence_breaks": [[start, end], ...],     characters of `context`: the candidates
        "qas": [{"id", "question", "answers": [{"answer_start", "text"}]}]}]}]}

The 1,190 questions have the same ids in all 11 languages. XQuAD itself has no sentence breaks, MLQA-R has not every
question in every language: both are refused. What has the form but not the published counts is read, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import BaseModel, Field, ValidationError

from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import say
from ccp_ray.storage import Store
from eval.bitext import folder_with
from eval.protocol import Text, text_of

QUESTIONS = 1190
CANDIDATES = {
    "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244,
    "ru": 1219, "th": 852, "tr": 1167, "vi": 1209, "zh": 1196,
}  # fmt: skip
"""Published number of candidate sentences by language."""


class Language(NamedTuple):
    """One file: questions by id, candidate sentences, and for each question the numbers of those that answer it."""

    questions: dict[str, Text]
    candidates: list[Text]
    answers: dict[str, list[int]]


class _Answer(BaseModel):
    answer_start: int = Field(ge=0)


class _Question(BaseModel):
    id: str
    question: str = Field(min_length=1)
    answers: list[_Answer] = Field(min_length=1, max_length=1)


class _Paragraph(BaseModel):
    context: str
    sentence_breaks: list[tuple[int, int]] = Field(min_length=1)
    qas: list[_Question]


class _Article(BaseModel):
    paragraphs: list[_Paragraph]


class _File(BaseModel):
    data: list[_Article]


def read_languages(data: str, chosen: list[str] | None) -> tuple[dict[str, Language], list[str]]:
    """The languages in `data` or `data/xquad_r`, sorted, and those of the `chosen` (None: all 11) without a file.

    Raises UsageError where no file is there and for a code that is not XQuAD-R's, DataError for a file of another
    benchmark and for files that do not belong together.
    """
    unknown = sorted(set(chosen or ()) - CANDIDATES.keys())
    if unknown:
        raise UsageError(f"xquad_r: {unknown[0]!r} is no language of XQuAD-R; there is {', '.join(CANDIDATES)}")
    store, keys = folder_with(data, "xquad_r", tuple(f"{lang}.json" for lang in CANDIDATES))
    wanted = sorted(set(chosen) if chosen is not None else CANDIDATES)
    there = [lang for lang in wanted if f"{lang}.json" in keys]
    missing = [lang for lang in wanted if lang not in there]
    if not there:
        files = ", ".join(f"{lang}.json" for lang in wanted)
        raise UsageError(f"{store.root}: none of {files or 'no language'} is here; found {', '.join(sorted(keys))}")
    if missing:
        say(f"xquad_r: {len(missing)} of {len(wanted)} languages have no file in {store.root}: {', '.join(missing)}")
    languages = {lang: _read(store, lang) for lang in there}
    _belong_together(languages, store.root)
    return languages, missing


def unofficial(languages: Mapping[str, Language]) -> dict[str, str]:
    """Of each language whose counts are not the published ones, what was found and expected."""
    found = {lang: (len(each.questions), len(each.candidates)) for lang, each in languages.items()}
    return {
        lang: f"{questions} questions, {candidates} candidates; published: {QUESTIONS}, {CANDIDATES[lang]}"
        for lang, (questions, candidates) in found.items()
        if (questions, candidates) != (QUESTIONS, CANDIDATES[lang])
    }


def _read(store: Store, lang: str) -> Language:
    key = f"{lang}.json"
    where = store.uri(key)
    try:
        parsed = _File.model_validate_json(store.read(key))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{where}: {place or 'JSON'}: {first['msg'].lower()}; expected LAReQA's XQuAD-R, which is SQuAD's format "
            "with sentence_breaks in every paragraph (XQuAD has none) and one answer a question"
        ) from None
    language = Language({}, [], {})
    for article in parsed.data:
        for paragraph in article.paragraphs:
            _add(language, paragraph, lang, where)
    if not language.questions:
        raise DataError(f"{where}: holds no question; expected LAReQA's XQuAD-R")
    return language


def _add(language: Language, paragraph: _Paragraph, lang: str, where: str) -> None:
    """The paragraph's sentences as candidates and its questions. One without questions is no part of the benchmark."""
    if not paragraph.qas:
        return
    first = len(language.candidates)
    sentences = [paragraph.context[start:end] for start, end in paragraph.sentence_breaks]
    if not all(sentence.strip() for sentence in sentences):
        raise DataError(f"{where}: a sentence of the paragraph {paragraph.context[:40]!r} is empty; check its breaks")
    language.candidates.extend(text_of(lang, sentence) for sentence in sentences)
    for asked in paragraph.qas:
        if asked.id in language.questions:
            raise DataError(f"{where}: question {asked.id!r} stands there twice")
        at = asked.answers[0].answer_start
        holders = [i for i, (start, end) in enumerate(paragraph.sentence_breaks) if start <= at < end]
        if not holders:
            raise DataError(f"{where}: the answer to question {asked.id!r} starts in no sentence; check its breaks")
        answer = sentences[holders[0]]
        language.questions[asked.id] = text_of(lang, asked.question)
        language.answers[asked.id] = [first + i for i, sentence in enumerate(sentences) if sentence == answer]


def _belong_together(languages: Mapping[str, Language], where: str) -> None:
    """Raises DataError where one language asks what another does not; says what has not the published counts."""
    (first, expected), *others = languages.items()
    for lang, each in others:
        differ = expected.questions.keys() ^ each.questions.keys()
        if differ:
            raise DataError(
                f"{where}: {first}.json and {lang}.json have {len(expected.questions)} and {len(each.questions)} "
                f"questions, {len(differ)} of them in one alone (such as {min(differ)!r}); expected one version of "
                "XQuAD-R, with the same questions in every language"
            )
    for lang, told in unofficial(languages).items():
        say(f"xquad_r: {lang}.json is not the published file: {told}; its scores do not compare with published ones")
