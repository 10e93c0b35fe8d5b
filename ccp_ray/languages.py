"""A family of generated languages with known translations.

Meaning comes first, words second. A *concept* is a unit vector in a small latent space; a document is a
walk through that space (its topic drifts), and each of its sentences says a few concepts that lie near the
walker. So neighbouring sentences share meaning, which is all that contrastive context prediction needs.
A *language* renders concepts into words with a lexicon, function words and a word order of its own. A set
share of the concepts, the cognates, has one form in every language.

Every document is a function of (seed, language, number) alone: any size streams, any part can be made
anywhere, and no document has a translation in another language. The test and dev sentences are the exception:
the same meanings rendered in every language, line by line. No meaning is in both: settings are chosen by the dev
sentences, and what is reported is measured on the test sentences.

Cost: about 4,000 sentences a second on one core; memory is the lexicon's (under 1 MB), whatever the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.errors import UsageError

# ISO 639-2 reserves qaa..qtz for local use: a generated language can never be mistaken for a real one.
_CODES = [f"q{a}{b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrstuvwxyz"]
_CONSONANTS = [*"bcdfghjklmnprstvz", "ch", "sh", "th", "br", "kr", "pl", "st"]
_VOWELS = [*"aeiou", "ai", "ei", "ou"]
# Sentence splitters take "Ga." for Georgia and join what follows.
_ABBREVIATIONS = {"ca", "co", "colo", "ga", "la", "me", "mo", "no", "pa", "re", "va"}
_WORD_ORDERS = ("svo", "sov", "vso", "osv")
_DRAWS = 100  # for each dev sentence on average: more are needed only where nearly every meaning is a test sentence

TranslatedSplit = Literal["test", "dev"]


class LanguagesConfig(StrictModel):
    """What the family looks like."""

    seed: int = 0
    count: int = Field(default=4, ge=1, le=len(_CODES), description="number of languages")
    concepts: int = Field(default=300, ge=16)
    cognates: float = Field(default=0.2, ge=0, le=1, description="share of concepts with one form everywhere")
    dimensions: int = Field(default=8, ge=2, description="of the latent space that topics drift in")
    focus: float = Field(default=12.0, gt=0, description="how near the topic a sentence's concepts lie")
    drift: float = Field(default=0.35, ge=0, description="how far the topic moves from one sentence to the next")
    words: int = Field(default=8, ge=3, description="content words a sentence")
    function_words: int = Field(default=12, ge=1, description="in each language")
    documents: int = Field(default=400, ge=1, description="training documents a language")
    dev_documents: int = Field(default=40, ge=0, description="held-out documents a language")
    sentences: int = Field(default=20, ge=2, description="sentences a document")
    test_sentences: int = Field(default=1000, ge=0, description="translated into every language")
    dev_sentences: int = Field(default=0, ge=0, description="the same, other meanings: to choose settings by")


class Language:
    """One language: lexicon, function words and word order, drawn from (seed, code)."""

    def __init__(self, code: str, config: LanguagesConfig, shared_forms: list[str | None]) -> None:
        rng = _rng(config.seed, "language", code)
        self.code = code
        self.order: str = _WORD_ORDERS[int(rng.integers(len(_WORD_ORDERS)))]
        self.function_rate = float(rng.uniform(0.25, 0.5))
        self.function_first = bool(rng.integers(2))
        onsets = [str(x) for x in rng.choice(_CONSONANTS, size=14, replace=False)]
        nuclei = [str(x) for x in rng.choice(_VOWELS, size=5, replace=False)]
        taken = {form for form in shared_forms if form}
        self.lexicon = [form or _new_word(rng, onsets, nuclei, (2, 4), taken) for form in shared_forms]
        self.particles = [_new_word(rng, onsets, nuclei, (1, 2), taken) for _ in range(config.function_words)]

    def render(self, concepts: NDArray[np.int64], rng: np.random.Generator) -> str:
        """One sentence. concepts [words], in the order subject, verb, object (thirds)."""
        third = len(concepts) // 3
        parts = {"s": concepts[:third], "v": concepts[third : 2 * third], "o": concepts[2 * third :]}
        words: list[str] = []
        for role in self.order:
            for concept in parts[role]:
                particle = rng.random() < self.function_rate
                word = self.lexicon[int(concept)]
                extra = [self.particles[int(len(self.particles) * rng.random() ** 2)]] if particle else []
                words += [*extra, word] if self.function_first else [word, *extra]
        text = " ".join(words)
        return text[0].upper() + text[1:] + "."


class LanguageFamily:
    """Documents and translated test sentences of a seeded family of languages."""

    def __init__(self, config: LanguagesConfig) -> None:
        self.config = config
        self.codes = _CODES[: config.count]
        rng = _rng(config.seed, "concepts")
        points = rng.normal(size=(config.concepts, config.dimensions))
        self.concepts_CD = points / np.linalg.norm(points, axis=1, keepdims=True)
        taken: set[str] = set()
        shared = rng.permutation(config.concepts) < round(config.cognates * config.concepts)
        self._shared = [_new_word(rng, _CONSONANTS, _VOWELS, (2, 4), taken) if own else None for own in shared]

    @cached_property
    def languages(self) -> dict[str, Language]:
        return {code: Language(code, self.config, self._shared) for code in self.codes}

    def meanings(self, rng: np.random.Generator, sentences: int) -> NDArray[np.int64]:
        """Concepts of a document's sentences. Returns [sentences, words], no concept twice in a sentence."""
        cfg = self.config
        topic_D = rng.normal(size=cfg.dimensions)
        steps_SD = rng.normal(size=(sentences, cfg.dimensions)) * cfg.drift
        walk_SD = np.empty_like(steps_SD)
        for i, step_D in enumerate(steps_SD):
            topic_D = topic_D / np.linalg.norm(topic_D) + step_D
            walk_SD[i] = topic_D / np.linalg.norm(topic_D)
        logits_SC = cfg.focus * walk_SD @ self.concepts_CD.T
        keys_SC = logits_SC + rng.gumbel(size=logits_SC.shape)  # Gumbel top-k: sampling without replacement
        return np.argpartition(-keys_SC, cfg.words, axis=1)[:, : cfg.words]

    def document(self, code: str, split: Literal["train", "dev"], number: int) -> dict[str, str]:
        """Document `number` of a language: {"id", "lang", "title", "text", "split"}."""
        rng = _rng(self.config.seed, "document", code, split, str(number))
        language = self.languages[code]
        text = " ".join(language.render(row, rng) for row in self.meanings(rng, self.config.sentences))
        name = f"{code}-{split}-{number:08d}"
        return {"id": name, "lang": code, "title": name, "text": text, "split": split}

    def numbered(self, code: str, index: int) -> dict[str, str]:
        """Document `index` of all documents of a language: the training documents come first, then the held-out."""
        train = self.config.documents
        return self.document(code, "train", index) if index < train else self.document(code, "dev", index - train)

    def documents(self, code: str) -> Iterator[dict[str, str]]:
        """All documents of a language, the training documents first."""
        for index in range(self.config.documents + self.config.dev_documents):
            yield self.numbered(code, index)

    def translations(self, split: TranslatedSplit = "test") -> dict[str, list[str]]:
        """Test (or dev) sentences by language; line i means the same in each."""
        rows = self._test_rows() if split == "test" else self._dev_rows()
        out: dict[str, list[str]] = {}
        for code, language in self.languages.items():
            own = _rng(self.config.seed, split, code)
            out[code] = [language.render(row, own) for row in rows]
        return out

    def _test_rows(self) -> list[NDArray[np.int64]]:
        rng = _rng(self.config.seed, "test")
        return [self.meanings(rng, 1)[0] for _ in range(self.config.test_sentences)]

    def _dev_rows(self) -> list[NDArray[np.int64]]:
        """Drawn from a stream of their own; a meaning that a test sentence has already is drawn again."""
        rng, taken = _rng(self.config.seed, "dev"), {frozenset(row.tolist()) for row in self._test_rows()}
        rows: list[NDArray[np.int64]] = []
        for _ in range(_DRAWS * self.config.dev_sentences):
            row = self.meanings(rng, 1)[0]
            if frozenset(row.tolist()) not in taken:
                rows.append(row)
            if len(rows) == self.config.dev_sentences:
                return rows
        if self.config.dev_sentences:
            raise UsageError("dev_sentences: too few meanings that are no test sentence; raise concepts")
        return rows


def _rng(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.blake2b("/".join([str(seed), *names]).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _new_word(
    rng: np.random.Generator, onsets: list[str], nuclei: list[str], syllables: tuple[int, int], taken: set[str]
) -> str:
    """A word that is not taken yet; grows a syllable when a short inventory runs out."""
    low, high = syllables
    for attempt in range(10_000):
        length = int(rng.integers(low, high)) + attempt // 100
        word = "".join(str(rng.choice(onsets)) + str(rng.choice(nuclei)) for _ in range(length))
        if word not in taken and word not in _ABBREVIATIONS:
            taken.add(word)
            return word
    raise RuntimeError("no free word form left: the syllable inventory is too small for this many concepts")
