"""XOR-Retrieve (Asai et al. 2021): questions in seven languages, answered by passages of the English Wikipedia.

R@2kt and R@5kt by the official algorithm (`eval.xor_measures`), by language and their mean over languages. As in the
official script, the questions that a run names are counted, and no others: one that is missing from a prediction file
does not lower the number. So where any is missing the score says how many ("missing", by language), is marked as
incomplete, and has "with_missing" beside "macro": the same with each missing question counted as a miss. A question
that is named with no passages is a miss in both. Predictions for ids that were not asked are left out ("unknown").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ccp_ray.artifact import digest_json
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import say
from eval.official_counts import other_questions
from eval.ranked import Collection, Question, Run
from eval.word_tokens import WordTokens
from eval.xor_files import Answered, find_passages, find_questions, read_questions
from eval.xor_measures import Asked, answered, spans

LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
LIMITS = {"r@2kt": 2000, "r@5kt": 5000}
PASSAGE_LANGUAGE = "en"


class XorRetrieveConfig(StrictModel):
    """Which questions and passages."""

    languages: list[str] | None = Field(default=None, description="of the questions; None: all")
    split: Literal["train", "dev"] = Field(default="dev", description="the published numbers are of dev")
    passages: str | None = Field(default=None, description="name of the TSV, where the folder has several")
    depth: int = Field(default=100, ge=1, description="passages ranked for a question; 5,000 tokens are about 45")


class XorRetrieve:
    """The benchmark. `passages`: URI of the TSV, or None where it is not at hand."""

    name = "xor_retrieve"
    needs_text = True

    def __init__(self, gold: dict[str, Answered], passages: str | None, config: XorRetrieveConfig) -> None:
        self.gold, self.passages, self.depth, self.split = gold, passages, config.depth, config.split
        self._expected = LANGUAGES if config.languages is None else config.languages
        self._words = WordTokens()

    def collections(self) -> list[Collection]:
        """The English passages, named "en". Raises UsageError where they are not at hand."""
        if self.passages is None:
            raise UsageError(
                "xor_retrieve: no passages: expected a .tsv (or .tsv.gz) of id, text and title beside the questions"
            )
        return [Collection(PASSAGE_LANGUAGE, self.passages)]

    def questions(self) -> list[Question]:
        return [Question(name, one.lang, one.text, PASSAGE_LANGUAGE) for name, one in self.gold.items()]

    def score(self, run: Run) -> dict[str, Any]:
        """{"macro", "languages"} with r@2kt and r@5kt, "counts" by language, and what the module's head says.

        Raises DataError for an empty run, one without a question that counts, and a question in a wrong language.
        """
        asked = self._asked(run)
        if not asked:
            raise DataError("xor_retrieve: the run has none of the questions that count; are they of another split?")
        hits = answered(asked, list(LIMITS.values()), self._words)
        shares = self._shares(hits)
        missing = Counter(self.gold[name].lang for name in self._counted() if name not in hits)
        missing_languages = sorted({one.lang for one in self.gold.values()} - shares.keys())
        ignored = sum(name not in self.gold for questions in run.values() for name in questions)
        score: dict[str, Any] = {
            "macro": _macro(shares),
            "languages": shares,
            "counts": dict(sorted(Counter(self.gold[name].lang for name in hits).items())),
            "missing": dict(sorted(missing.items())),
            "missing_languages": missing_languages,
            "unknown": ignored,
            "complete": not missing,
        }
        if missing:
            say(
                f"xor_retrieve: {sum(missing.values()):,} questions are missing from the run and not counted, as the "
                "official script has it; with_missing counts them as misses"
            )
            everything = dict.fromkeys(self._counted(), (False,) * len(LIMITS)) | hits
            score["with_missing"] = _macro(self._shares(everything))
        return score

    def _counted(self) -> list[str]:
        return [name for name, one in self.gold.items() if spans(one.answers)]

    def _asked(self, run: Run) -> dict[str, Asked]:
        """What the run ranked for the questions that count."""
        asked: dict[str, Asked] = {}
        for lang, questions in run.items():
            for name, hits in questions.items():
                gold = self.gold.get(name)
                if gold is None:
                    continue
                if gold.lang != lang.strip():
                    raise DataError(f"xor_retrieve: question {name!r} is {gold.lang}, but {lang} in the run")
                if spans(gold.answers):
                    asked[name] = Asked(spans(gold.answers), [hit.text for hit in hits])
        return asked

    def _shares(self, hits: Mapping[str, Sequence[bool]]) -> dict[str, dict[str, float]]:
        """Share of hits by language and limit."""
        rows: dict[str, list[Sequence[bool]]] = {}
        for name, row in hits.items():
            rows.setdefault(self.gold[name].lang, []).append(row)
        return {lang: _means(rows[lang]) for lang in sorted(rows)}

    def describe(self) -> dict[str, Any]:
        """{"split", "languages": {LANG: {questions, skipped}}, "missing", "complete", "other_questions"}.

        skipped: only yes or no. other_questions: see `eval.official_counts`.
        """
        asked, counted = Counter(one.lang for one in self.gold.values()), self._counted()
        spans_by = Counter(self.gold[name].lang for name in counted)
        languages = {
            lang: {"questions": count, "skipped": count - spans_by[lang]} for lang, count in sorted(asked.items())
        }
        missing = [lang for lang in self._expected if lang not in asked]
        told = {"split": self.split, "languages": languages, "missing": missing, "complete": not missing}
        return told | {"other_questions": other_questions("xor_retrieve", self.split, asked)}

    def key(self) -> str:
        return digest_json([[name, one.lang, one.text, one.answers] for name, one in self.gold.items()])


def _means(rows: Sequence[Sequence[bool]]) -> dict[str, float]:
    return dict(zip(LIMITS, np.mean(np.array(rows, dtype=np.float64), axis=0).tolist(), strict=True))


def _macro(shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([values[name] for values in shares.values()])) for name in LIMITS}


def load_xor_retrieve(data: str, config: XorRetrieveConfig | None = None) -> XorRetrieve:
    """Read the questions in `data` or `data/xor_retrieve`; passages are only looked for.

    Raises UsageError for missing files and languages; DataError naming the line of a broken file, and where all
    answers are yes or no, so that nothing counts.
    """
    config = config or XorRetrieveConfig()
    uri = find_questions(data, config.split)
    gold = read_questions(uri, config.split)
    known = sorted({one.lang for one in gold.values()})
    if config.languages is not None:
        strange = [lang for lang in config.languages if lang not in known]
        if strange or not config.languages:
            wanted = ", ".join(strange) or "no language"
            raise UsageError(f"{uri}: no questions in {wanted}; there is {', '.join(known)}")
        gold = {name: one for name, one in gold.items() if one.lang in config.languages}
    if not any(spans(one.answers) for one in gold.values()):
        raise DataError(f"{uri}: all answers are yes or no, which XOR-Retrieve skips; nothing is left to score")
    return XorRetrieve(gold, find_passages(data, config.passages, uri), config)
