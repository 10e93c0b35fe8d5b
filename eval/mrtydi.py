"""Mr.TyDi v1.1 (Zhang et al. 2021): questions in 11 languages, each to its own language's Wikipedia passages.

MRR@100 and Recall@100 by trec_eval (`eval.trec_measures`), by language, and their mean over languages. A language
whose files are missing (passages too, where we rank them), or that a run has nothing of, is named and left out of the
mean, which is then marked as incomplete: it is not the published average of eleven. Within a language, a question
without hits counts 0.

The collection of language xx is named "xx": the language of its passages, which their rows do not name.
"""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from pydantic import Field

from ccp_ray.artifact import digest_json
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.judged import read_qrels, read_topics
from ccp_ray.progress import say
from eval.mrtydi_files import NAMES, Files, find_files
from eval.official_counts import other_questions
from eval.ranked import Collection, Question, Run
from eval.trec_measures import trec_scores

LANGUAGES = tuple(sorted(NAMES.values()))
DEPTH = 100


class MrTydiConfig(StrictModel):
    """Which questions."""

    languages: list[str] | None = Field(default=None, description="codes; None: all that have files")
    split: Literal["train", "dev", "test"] = Field(default="test", description="the published numbers are of test")


class _Language(NamedTuple):
    questions: dict[str, str]
    judged: dict[str, dict[str, int]]
    files: Files


class MrTydi:
    """The benchmark. `unknown`: judged documents that a collection lacks, where `check_documents` has looked."""

    name = "mrtydi"
    depth = DEPTH
    needs_text = False

    def __init__(self, languages: dict[str, _Language], expected: Ids[str], split: str) -> None:
        self.languages, self.split = languages, split
        self._expected = expected
        self.missing = [lang for lang in expected if lang not in languages]
        self.unknown: dict[str, int] = {}

    def at_hand(self) -> MrTydi:
        """The languages whose documents are there. Raises UsageError where none is."""
        have = {lang: own for lang, own in self.languages.items() if own.files.docs}
        without = [lang for lang in self.languages if lang not in have]
        if not have:
            self._refuse(without)
        if without:
            say(f"mrtydi: no documents (docs.jsonl) of {', '.join(without)}; the average is of the other languages")
        return MrTydi(have, self._expected, self.split)

    def _refuse(self, without: list[str]) -> NoReturn:
        raise UsageError(
            f"mrtydi: no documents of {', '.join(without)}: expected mrtydi-v1.1-LANG/collection/docs.jsonl "
            "(or .jsonl.gz) beside the topics; fetch them"
        )

    def collections(self) -> list[Collection]:
        """The documents of each language. Raises UsageError naming languages whose documents are not there."""
        without = [lang for lang, own in self.languages.items() if own.files.docs is None]
        if without:
            self._refuse(without)
        return [Collection(lang, own.files.docs) for lang, own in self.languages.items() if own.files.docs]

    def questions(self) -> list[Question]:
        return [
            Question(name, lang, text, lang)
            for lang, own in self.languages.items()
            for name, text in own.questions.items()
        ]

    def check_documents(self, lang: str, ids: Iterable[str]) -> int:
        """How many judged documents of a language its collection (`ids`) lacks; also said, and told by `describe`.

        Raises DataError where it lacks most: then these are not the passages that the judgements are about.
        """
        own = self.languages[lang]
        wanted = {doc for documents in own.judged.values() for doc in documents}
        lacking = sorted(wanted.difference(ids))
        self.unknown[lang] = len(lacking)
        if not lacking:
            return 0
        told = f"{own.files.qrels}: {len(lacking):,} of {len(wanted):,} judged documents are not in the collection"
        if 2 * len(lacking) > len(wanted):
            raise DataError(f"{told} {own.files.docs} (such as {lacking[0]!r}); is it another version's?")
        say(f"mrtydi: {told}, such as {lacking[0]!r}; no system can find them")
        return len(lacking)

    def score(self, run: Run) -> dict[str, Any]:
        """{"macro", "languages"} with mrr@100 and recall@100; "missing": languages in neither, "complete".

        Raises DataError for a run without a language of the benchmark.
        """
        scored = {
            lang: trec_scores(own.judged, run[lang], self.depth)
            for lang, own in self.languages.items()
            if run.get(lang)
        }
        if not scored:
            raise DataError(f"mrtydi: the run has no hits in any of {', '.join(self.languages)}")
        missing = sorted({*self.missing, *(self.languages.keys() - scored.keys())})
        names = next(iter(scored.values()))
        macro = {name: float(np.mean([values[name] for values in scored.values()])) for name in names}
        return {"macro": macro, "languages": scored, "missing": missing, "complete": not missing}

    def describe(self) -> dict[str, Any]:
        """{"split", "languages": {LANG: {questions, relevant, unjudged, unknown}}, "missing", "complete",
        "other_questions"} (`eval.official_counts`).

        unjudged: questions that the qrels do not name, which are not scored. unknown: see `check_documents`.
        """
        languages = {lang: _counts(own) for lang, own in self.languages.items()}
        counts = {lang: own["questions"] for lang, own in languages.items()}
        for lang, count in self.unknown.items():
            languages[lang]["unknown"] = count
        return {
            "split": self.split,
            "languages": languages,
            "missing": self.missing,
            "complete": not self.missing,
            "other_questions": other_questions("mrtydi", self.split, counts),
        }

    def key(self) -> str:
        return digest_json({lang: [own.questions, own.judged] for lang, own in self.languages.items()})


def _counts(own: _Language) -> dict[str, int]:
    relevant = sum(grade > 0 for documents in own.judged.values() for grade in documents.values())
    return {
        "questions": len(own.questions),
        "relevant": relevant,
        "unjudged": len(own.questions.keys() - own.judged.keys()),
    }


def load_mrtydi(data: str, config: MrTydiConfig | None = None) -> MrTydi:
    """Read topics and qrels below `data`; documents are only looked for.

    Raises UsageError where a chosen language, all languages, or the right version are missing; DataError naming the
    line of a broken file, and for qrels of questions that the topics lack.
    """
    config = config or MrTydiConfig()
    files = find_files(data, config.split)
    chosen = list(files) if config.languages is None else list(dict.fromkeys(config.languages))
    expected = LANGUAGES if config.languages is None else chosen
    present = [lang for lang in chosen if lang in files]
    missing = [lang for lang in expected if lang not in files]
    if not present:
        raise UsageError(
            f"{data}: no Mr.TyDi files of {', '.join(chosen) or 'no language'}; there is {', '.join(files)}"
        )
    if missing:
        say(f"mrtydi: no files of {', '.join(missing)} in {data}; the average is of the other languages")
    return MrTydi({lang: _read(files[lang]) for lang in present}, expected, config.split)


def _read(files: Files) -> _Language:
    questions, judged = read_topics(files.topics), read_qrels(files.qrels)
    strange = [name for name in judged if name not in questions]
    if strange:
        raise DataError(
            f"{files.qrels}: judges {len(strange):,} questions that {files.topics} does not have, such as "
            f"{strange[0]!r}; are they of one split and version?"
        )
    return _Language(questions, judged, files)
