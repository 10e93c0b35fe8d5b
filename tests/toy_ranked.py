"""A small ranked benchmark: questions in two languages, one collection; the answer to question i is passage i."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccp_ray.artifact import digest_json
from ccp_ray.errors import UsageError
from eval import evaluate as evaluation
from eval.ranked import Collection, Question, Run

LANGUAGES = ("qaa", "qab")
PASSAGES, QUESTIONS = 90, 30


class Toy:
    """`first@DEPTH`: 1 over the place of the right passage."""

    def __init__(self, folder: str, name: str = "toy", needs_text: bool = False, depth: int = 5) -> None:
        self.name, self.folder, self.needs_text, self.depth = name, folder, needs_text, depth

    def collections(self) -> list[Collection]:
        return [Collection("qac", f"{self.folder}/passages.jsonl")]

    def questions(self) -> list[Question]:
        return [Question(f"{i}", lang, f"{lang} {i}", "qac") for lang in LANGUAGES for i in range(QUESTIONS)]

    def score(self, run: Run) -> dict[str, Any]:
        languages = {}
        for lang in LANGUAGES:
            found = [self._place(i, run.get(lang, {}).get(f"{i}", ())) for i in range(QUESTIONS)]
            languages[lang] = {"first": float(np.mean(found))}
        return {"macro": {"first": float(np.mean([s["first"] for s in languages.values()]))}, "languages": languages}

    def _place(self, number: int, hits: Sequence[Any]) -> float:
        assert len(hits) <= self.depth
        if self.needs_text:
            assert all(hit.text.split()[1] == hit.id.removeprefix("p") for hit in hits)
        return next((1 / place for place, hit in enumerate(hits, 1) if hit.id == f"p{number}"), 0.0)

    def describe(self) -> dict[str, Any]:
        return {"questions": QUESTIONS}

    def key(self) -> str:
        return digest_json([self.depth, [question._asdict() for question in self.questions()]])


def load_toy(data: str, **changes: Any) -> Toy:
    """Raises UsageError where there are no passages."""
    if not Path(data, "passages.jsonl").exists():
        raise UsageError(f"{data}: no passages.jsonl")
    return Toy(data, **changes)


def write_passages(folder: Path, languages: Sequence[str] = ("qac",)) -> None:
    rows = [{"id": f"p{i}", "lang": languages[i % len(languages)]} for i in range(PASSAGES)]
    lines = [json.dumps(row | {"text": f"{row['lang']} {i}"}) for i, row in enumerate(rows)]
    (folder / "passages.jsonl").write_text("\n".join(lines) + "\n")


def toy_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Passages, the toy benchmark among the built-in ones under two names, and translations beside them."""
    write_passages(folder)
    loaders: dict[str, Callable] = {
        "toy": lambda data, _: load_toy(data),
        "wordy": lambda data, _: load_toy(data, name="wordy", needs_text=True, depth=9),
    }
    monkeypatch.setattr(evaluation, "_LOADERS", evaluation._LOADERS | loaders)
    monkeypatch.setattr(evaluation, "BENCHMARKS", (*evaluation.BENCHMARKS, *loaders))
    (folder / "translations").mkdir()
    for lang in (*LANGUAGES, "qac"):
        (folder / "translations" / f"{lang}.txt").write_text("".join(f"{lang} {line}\n" for line in range(60)))
    return folder
