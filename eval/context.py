"""Context retrieval: is a sentence's nearest neighbour, among N of its language, one of its own context?

The objective's own test, on held-out documents: no translations needed, and defined for each language by itself.
A neighbour counts if it stands in the same document at most `window` positions away. Chance is what a random
other sentence would score.

The N sentences are short passages of as many documents as there are, because training tells a context from random
sentences of the language. Whole chapters of a few novels instead would ask for the right page among the same
characters and places, which nothing in the objective teaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ccp_ray.artifact import digest_json
from ccp_ray.config import StrictModel
from ccp_ray.corpus import Corpus
from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import say
from eval.metrics import nearest_others
from eval.protocol import Lookup, Text


class ContextConfig(StrictModel):
    """How many sentences, of which languages, and how wide the window is."""

    languages: list[str] | None = Field(default=None, description="None: all with held-out documents")
    sentences: int = Field(default=1000, ge=3, description="of each language, at most")
    passage: int = Field(default=11, ge=2, description="sentences in a row, of each document before more of any")
    window: int = Field(default=5, ge=1, description="positions on either side")


class Row(NamedTuple):
    """A sentence and its position in its document."""

    position: int
    id: str
    text: str


class Sample(NamedTuple):
    """Sentences of one language: `document_N` numbers their documents, `position_N` stands within them."""

    texts: list[Text]
    document_N: NDArray[np.int64]
    position_N: NDArray[np.int64]


class Context:
    """The benchmark."""

    name = "context"

    def __init__(self, samples: dict[str, Sample], window: int) -> None:
        self.samples, self.window = dict(sorted(samples.items())), window

    def texts(self) -> list[Text]:
        return [text for sample in self.samples.values() for text in sample.texts]

    def score(self, lookup: Lookup) -> dict[str, Any]:
        """{"macro": {"accuracy", "chance"}, "languages": {lang: {"accuracy", "chance"}}}, fractions."""
        languages = {lang: self._score(lang, sample, lookup) for lang, sample in self.samples.items()}
        macro = {name: float(np.mean([s[name] for s in languages.values()])) for name in ("accuracy", "chance")}
        return {"macro": macro, "languages": languages}

    def describe(self) -> dict[str, Any]:
        counts = {
            lang: {"sentences": len(s.texts), "documents": int(s.document_N.max()) + 1}
            for lang, s in self.samples.items()
        }
        return {"window": self.window, "languages": counts}

    def key(self) -> str:
        samples = self.samples.items()
        places = [[lang, [t.id for t in s.texts], s.document_N.tolist(), s.position_N.tolist()] for lang, s in samples]
        return digest_json([self.window, places])

    def _score(self, lang: str, sample: Sample, lookup: Lookup) -> dict[str, float]:
        found_N = nearest_others(lookup([text.id for text in sample.texts], lang))
        hit_N = in_window(sample, np.arange(len(found_N)), found_N, self.window)
        return {"accuracy": float(np.mean(hit_N)), "chance": chance_level(sample, self.window)}


def in_window(
    sample: Sample, first_N: NDArray[np.int64], second_N: NDArray[np.int64], window: int
) -> NDArray[np.bool_]:
    """Whether two sentences stand in one document, at most `window` positions apart."""
    same_N = sample.document_N[first_N] == sample.document_N[second_N]
    near_N = np.abs(sample.position_N[first_N] - sample.position_N[second_N]) <= window
    return np.asarray(same_N & near_N)


def chance_level(sample: Sample, window: int) -> float:
    """Expected accuracy of a neighbour drawn uniformly from the other sentences."""
    count = len(sample.texts)
    hits = 0
    for shift in range(1, count):
        first_N = np.arange(count - shift)
        near = int(in_window(sample, first_N, first_N + shift, window).sum())
        if not near:  # sentences stand in order: what lies farther off is no nearer
            break
        hits += 2 * near
    return hits / (count * (count - 1))


def load_context(data: str, config: ContextConfig | None = None) -> Context:
    """Passages of a corpus artifact's held-out documents.

    Raises UsageError for a chosen language that the corpus has not, DataError where nothing was held out.
    """
    config = config or ContextConfig()
    corpus = Corpus.open(data)
    unknown = sorted(set(config.languages or ()) - set(corpus.languages))
    if unknown:
        raise UsageError(f"{data}: the corpus has no language {unknown[0]!r}; it has {', '.join(corpus.languages)}")
    samples = {lang: _sample(corpus, lang, config) for lang in config.languages or corpus.languages}
    empty = sorted(lang for lang, sample in samples.items() if sample is None)
    if empty and (config.languages or len(empty) == len(samples)):
        raise DataError(
            f"{data}: too few held-out sentences of {', '.join(empty)}; "
            "prepare the corpus with a larger dev share, or leave the language out"
        )
    if empty:
        say(f"context: {', '.join(empty)} left out (too few held-out sentences)")
    return Context({lang: sample for lang, sample in samples.items() if sample is not None}, config.window)


def _sample(corpus: Corpus, lang: str, config: ContextConfig) -> Sample | None:
    documents: dict[str, list[Row]] = {}
    for part in corpus.parts("dev", lang):
        if sum(min(len(rows), config.passage) for rows in documents.values()) >= config.sentences:
            break
        table = corpus.read_sentences(part)
        columns = (table.column(name).to_pylist() for name in ("doc", "position", "id", "text"))
        for doc, *row in zip(*columns, strict=True):
            documents.setdefault(doc, []).append(Row(*row))
    taken = passages([sorted(rows) for rows in documents.values()], config.passage, config.sentences)
    if len(taken) < 3:
        return None
    texts = [Text(row.id, lang, row.text) for _, row in taken]
    numbers = np.unique([number for number, _ in taken], return_inverse=True)[1]
    return Sample(texts, numbers, np.array([row.position for _, row in taken]))


def passages(documents: Sequence[Sequence[Row]], length: int, most: int) -> list[tuple[int, Row]]:
    """The first `length` sentences of every document, then the next of every one, until there are `most`.

    Returns (number of the document, row) in order. A passage of one sentence is left out: it has no context.
    """
    taken: list[tuple[int, Row]] = []
    for start in range(0, max(map(len, documents), default=0), length):
        for number, rows in enumerate(documents):
            passage = rows[start : start + length][: most - len(taken)]
            if len(passage) >= 2:
                taken += [(number, row) for row in passage]
    return sorted(taken)
