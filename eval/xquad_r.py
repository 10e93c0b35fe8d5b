"""XQuAD-R (LAReQA): answers to a question in one language, sought among sentences of all languages at once.

Every one of 1,190 questions is asked in 11 languages (13,090) of one pool of all 13,014 sentences; the 11 sentences
that hold the answer are right, whatever their language. A sentence is a candidate once for each place it has; all
sentences of a paragraph that read like the answer's are right; a question's answer is the sentence in which its span
starts: all as in LAReQA's script. Mean average precision of a question language, then the mean over languages (all have
as many questions, so that is LAReQA's mean over questions).

    "languages": {Q: {                 Q: language of the question; "macro": means over Q
        "map"            the full pool: LAReQA's number (En-En 0.29, X-X 0.23, X-X-mono 0.52, X-Y 0.66)
        "map@20"         the same cut at 20: XTREME-R's number
        "map_cross"      without candidates of the question's language: the 10 answers of the others
        "map_mono"       candidates of the question's language alone: weak alignment, where no language can be preferred
        "same_language@10"    share of the ten best that are in the question's language (by chance 1/11)
    }}
    "answers": {Q: {A: {"map", "rank"}}}    the answer in language A alone: mean (average) precision in the full pool
                                            without the other languages' answers; its median rank in the full pool
    "top": {Q: {C: share}}                  language of the ten best candidates

Language bias shows in three places: `map` against `map_cross` and `map_mono`; the diagonal of "answers", above the rest
of its row; "top". An easy or hard question language shows in all of them alike.

A tie counts against the answer (`eval.average_precision`); in "top", candidates that tie at the tenth place share it.
With fewer languages than 11 the pool is smaller and numbers do not compare: `describe()` says `complete` and `missing`.

LAReQA's own models encode a candidate together with its paragraph; here a sentence is encoded alone, as an encoder of
sentences has it. Numbers of models that read the paragraph are no baseline for it.

Scoring takes 5 to 6 s a variant on one core for 384 dimensions, in blocks of 512 questions (113 MB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ccp_ray.artifact import digest_json
from ccp_ray.config import StrictModel
from eval.average_precision import Floats, answers_from, average_precision, counts_from
from eval.metrics import distinct_rows
from eval.protocol import FloatArray, Lookup, Text, distinct, text_of
from eval.xquad_r_files import Language, read_languages, unofficial

_BLOCK = 512
_CUTOFF = 20
_TOP = 10
_SAME = f"same_language@{_TOP}"


class XquadRConfig(StrictModel):
    """Which languages (of the questions and of the pool), and what stands before their texts."""

    languages: list[str] | None = Field(default=None, description="None: every file there is")
    question_prefix: str = Field(default="", description="before every question, for encoders that want one")
    sentence_prefix: str = Field(default="", description="before every candidate")


class Pool(NamedTuple):
    """All candidates: their vectors as distinct rows [U, D] and which of these each is [M]; languages' places in M."""

    vectors_UD: FloatArray
    copy_of_M: NDArray[np.int64]
    places: dict[str, slice]

    def scores(self, questions_BD: FloatArray) -> FloatArray:
        """Cosines [B, M]; equal for candidates with equal vectors."""
        similar_BU = questions_BD @ self.vectors_UD.T
        if len(self.vectors_UD) == len(self.copy_of_M):
            return similar_BU
        # similar_BU[:, copies] would lie in memory column by column, and all that reads rows take three times as long
        return similar_BU.take(self.copy_of_M, axis=1)


class Answers(NamedTuple):
    """Right candidates of each question [N, R]: numbers in the pool (0 where there are fewer), languages (-1 there)."""

    index_NR: NDArray[np.int64]
    lang_NR: NDArray[np.int64]


class Found(NamedTuple):
    """Of each question: numbers by metric [N]; by answer language precision and rank [N, L]; the top's share [N, L]."""

    metrics: dict[str, Floats]
    precision_NL: Floats
    rank_NL: Floats
    top_NL: Floats


class XquadR:
    """The benchmark."""

    name = "xquad_r"

    def __init__(self, languages: Mapping[str, Language], missing: Sequence[str] = ()) -> None:
        self.languages, self.missing = dict(sorted(languages.items())), sorted(missing)
        self.ids = list(next(iter(self.languages.values())).questions)
        self.answers = _answers(self.languages, self.ids)

    def texts(self) -> list[Text]:
        parts = self.languages.values()
        return distinct(text for part in parts for text in [*part.questions.values(), *part.candidates])

    def score(self, lookup: Lookup) -> dict[str, Any]:
        """The module's form; fractions but for ranks."""
        pool = _pool(self.languages, lookup)
        names = list(self.languages)
        languages, answers, top = {}, {}, {}
        for number, lang in enumerate(names):
            questions_ND = lookup([self.languages[lang].questions[id].id for id in self.ids], lang)
            found = _joined([self._block(pool, number, questions_ND, i) for i in range(0, len(self.ids), _BLOCK)])
            languages[lang] = {name: float(values_N.mean()) for name, values_N in found.metrics.items()}
            means_L, ranks_L = found.precision_NL.mean(axis=0), np.median(found.rank_NL, axis=0)
            answers[lang] = {
                other: {"map": float(means_L[i]), "rank": float(ranks_L[i])} for i, other in enumerate(names)
            }
            top[lang] = dict(zip(names, found.top_NL.mean(axis=0).tolist(), strict=True))
        metrics = next(iter(languages.values()))
        macro = {name: float(np.mean([values[name] for values in languages.values()])) for name in metrics}
        return {"macro": macro, "languages": languages, "answers": answers, "top": top}

    def describe(self) -> dict[str, Any]:
        """{"languages": {LANG: {questions, candidates}}, "complete", "missing", "unofficial": differing counts}."""
        counts = {
            lang: {"questions": len(each.questions), "candidates": len(each.candidates)}
            for lang, each in self.languages.items()
        }
        differ = unofficial(self.languages)
        complete = len(self.languages) == 11 and not differ
        return {"languages": counts, "complete": complete, "missing": self.missing, "unofficial": differ}

    def key(self) -> str:
        asked = [
            [lang, [(id, each.questions[id].id, each.answers[id]) for id in self.ids], [t.id for t in each.candidates]]
            for lang, each in self.languages.items()
        ]
        return digest_json(asked)

    def _block(self, pool: Pool, own: int, questions_ND: FloatArray, start: int) -> Found:
        rows = slice(start, start + _BLOCK)
        return _found(pool, own, pool.scores(questions_ND[rows]), Answers(*(array[rows] for array in self.answers)))


def load_xquad_r(data: str, config: XquadRConfig | None = None) -> XquadR:
    """Read LANG.json in `data` or `data/xquad_r`. A language without a file is named and left out.

    Raises UsageError and DataError as `eval.xquad_r_files.read_languages`.
    """
    config = config or XquadRConfig()
    languages, missing = read_languages(data, config.languages)
    return XquadR({lang: _prefixed(each, config) for lang, each in languages.items()}, missing)


def _prefixed(language: Language, config: XquadRConfig) -> Language:
    questions = {id: text_of(q.lang, config.question_prefix + q.text) for id, q in language.questions.items()}
    candidates = [text_of(c.lang, config.sentence_prefix + c.text) for c in language.candidates]
    return Language(questions, candidates, language.answers)


def _pool(languages: Mapping[str, Language], lookup: Lookup) -> Pool:
    parts = [lookup([text.id for text in each.candidates], lang) for lang, each in languages.items()]
    vectors_MD = np.concatenate(parts)
    first_U, copy_of_M = distinct_rows(vectors_MD)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    places = {lang: slice(end - len(part), end) for lang, part, end in zip(languages, parts, ends, strict=True)}
    return Pool(np.ascontiguousarray(vectors_MD[first_U], dtype=np.float32), copy_of_M, places)


def _answers(languages: Mapping[str, Language], ids: Sequence[str]) -> Answers:
    """Candidates are numbered through the languages in order, as in the pool."""
    rows: list[list[tuple[int, int]]] = [[] for _ in ids]
    first = 0
    for number, each in enumerate(languages.values()):
        for row, id in zip(rows, ids, strict=True):
            row += [(first + index, number) for index in each.answers[id]]
        first += len(each.candidates)
    width = max(map(len, rows))
    padded_NR2 = np.array([row + [(0, -1)] * (width - len(row)) for row in rows], dtype=np.int64)
    return Answers(padded_NR2[:, :, 0], padded_NR2[:, :, 1])


def _found(pool: Pool, own: int, scores_BM: FloatArray, answers: Answers) -> Found:
    """All numbers of a block of questions of language number `own`."""
    values_BR = np.take_along_axis(scores_BM, answers.index_NR, axis=1)
    of_own = list(pool.places.values())[own]
    rank_BR, rank_own_BR = counts_from(scores_BM, values_BR), counts_from(scores_BM[:, of_own], values_BR)
    every_BR, own_BR = answers.lang_NR >= 0, answers.lang_NR == own
    place_BR = answers_from(values_BR, every_BR)
    metrics = {
        "map": average_precision(rank_BR, place_BR, every_BR),
        f"map@{_CUTOFF}": average_precision(rank_BR, place_BR, every_BR, _CUTOFF),
        "map_mono": average_precision(rank_own_BR, answers_from(values_BR, own_BR), own_BR),
    }
    if len(pool.places) > 1:
        others_BR = every_BR & ~own_BR
        metrics["map_cross"] = average_precision(rank_BR - rank_own_BR, answers_from(values_BR, others_BR), others_BR)
    precision, ranks = [], []
    for number in range(len(pool.places)):
        this_BR = answers.lang_NR == number
        place_of_this_BR = answers_from(values_BR, this_BR)
        precision.append(average_precision(rank_BR - place_BR + place_of_this_BR, place_of_this_BR, this_BR))
        ranks.append(np.where(this_BR, rank_BR, np.iinfo(np.int64).max).min(axis=1))
    top_BL = _top_shares(scores_BM, list(pool.places.values()))
    metrics[_SAME] = top_BL[:, own]
    return Found(metrics, np.stack(precision, axis=1), np.stack(ranks, axis=1).astype(np.float64), top_BL)


def _top_shares(scores_BM: FloatArray, places: Sequence[slice]) -> Floats:
    """Share of each language in the ten best [B, L]; what ties at the last place has equal parts of what is left."""
    depth = min(_TOP, scores_BM.shape[1])
    last_B = np.partition(scores_BM, -depth, axis=1)[:, -depth]
    stops = [place.stop for place in places]
    shares_BL = np.zeros((len(last_B), len(places)))
    for scores_M, last, shares_L in zip(scores_BM, last_B, shares_BL, strict=True):
        best_n = np.flatnonzero(scores_M >= last)
        inside_n = scores_M[best_n] > last
        inside = np.count_nonzero(inside_n)
        weight_n = np.where(inside_n, 1.0, (depth - inside) / (len(best_n) - inside))
        np.add.at(shares_L, np.searchsorted(stops, best_n, side="right"), weight_n / depth)
    return shares_BL


def _joined(blocks: Sequence[Found]) -> Found:
    metrics = {name: np.concatenate([block.metrics[name] for block in blocks]) for name in blocks[0].metrics}
    rest = (np.concatenate(parts) for parts in list(zip(*blocks, strict=True))[1:])
    return Found(metrics, *rest)
