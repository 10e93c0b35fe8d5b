"""What a benchmark is: texts to embed, and a score that needs nothing but their vectors.

    load      the benchmark reads its data and knows its texts (id, lang, text)
    embed     once, whatever the number of variants
    score     a pure function of `lookup(ids, lang) -> unit vectors`, called for each variant

Variants are cumulative: raw (cosine of the encoder's vectors), then shift, scale, rotate of a calibration.
An id is the language and a hash of the text, so a sentence that stands twice is embedded once, and the order of ids
says nothing about which sentence translates which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ccp_ray.calibration import STEPS, Calibration, Step, unit
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError
from ccp_ray.lines import pack_lines

FloatArray = NDArray[np.float32]
Lookup = Callable[[Sequence[str], str], FloatArray]
"""(ids, language) -> unit vectors [len(ids), D] of a variant."""

VARIANTS: dict[str, tuple[Step, ...]] = {"raw": ()} | {step: STEPS[: i + 1] for i, step in enumerate(STEPS)}


class Text(NamedTuple):
    """A sentence to embed."""

    id: str
    lang: str
    text: str


class Benchmark(Protocol):
    """A loaded benchmark."""

    name: str

    def texts(self) -> list[Text]:
        """What to embed: distinct ids, in a fixed order."""

    def score(self, lookup: Lookup) -> dict[str, Any]:
        """Plain JSON with at least `macro`; accuracies are fractions."""

    def describe(self) -> dict[str, Any]:
        """What was read, for the result: counts and choices, plain JSON."""

    def key(self) -> str:
        """A digest of what is asked: the texts' ids and how they belong together."""


class Vectors:
    """The vectors of a benchmark's texts, found by id. Memory: all of them, float32."""

    def __init__(self, ids_by_language: dict[str, list[str]], vectors_by_language: dict[str, FloatArray]) -> None:
        self._rows = {lang: {id: row for row, id in enumerate(ids)} for lang, ids in ids_by_language.items()}
        self._vectors = vectors_by_language

    @classmethod
    def read(cls, *embeddings: Embeddings) -> Vectors:
        """All vectors of some embeddings artifacts; what stands in two of them counts once."""
        ids: dict[str, list[str]] = {}
        found: dict[str, list[FloatArray]] = {}
        for vectors_ND, table in chain.from_iterable(embeddings):
            languages = np.array(table.column("lang").to_pylist(), dtype=object)
            names = np.array(table.column("id").to_pylist(), dtype=object)
            for lang in sorted(set(languages)):
                ids.setdefault(lang, []).extend(names[languages == lang])
                found.setdefault(lang, []).append(vectors_ND[languages == lang])
        return cls(ids, {lang: np.concatenate(parts) for lang, parts in found.items()})

    def of(self, benchmark: Benchmark) -> Vectors:
        """Those of one benchmark's texts."""
        ids: dict[str, list[str]] = {}
        for text in benchmark.texts():
            ids.setdefault(text.lang, []).append(text.id)
        return Vectors(ids, {lang: self.get(names, lang) for lang, names in ids.items()})

    def get(self, ids: Sequence[str], lang: str) -> FloatArray:
        """Vectors [len(ids), D]. Raises DataError for an id without one."""
        rows = self._rows.get(lang, {})
        missing = next((id for id in ids if id not in rows), None)
        if missing is not None:
            raise DataError(
                f"the embeddings hold no vector of {missing!r} ({lang}); its row was put aside: see quarantine/"
            )
        return np.asarray(self._vectors[lang][[rows[id] for id in ids]])

    def fit(self, config: CalibrationConfig) -> Calibration:
        """A calibration from these vectors, each language by itself.

        Rows go in id order: a hash of the text, so the halves that fit and judge a rotation are random and
        unrelated between languages, whatever lines of the benchmark translate each other.
        """
        ordered = {lang: self.get(sorted(rows), lang) for lang, rows in sorted(self._rows.items())}
        return fit(ordered, config)


def score_raw(benchmark: Benchmark, vectors: Vectors) -> dict[str, Any]:
    """{"raw": score}, which needs no calibration."""
    return {"raw": benchmark.score(lambda ids, lang: unit(vectors.get(ids, lang)))}


def score_variants(benchmark: Benchmark, vectors: Vectors, calibration: Calibration) -> dict[str, Any]:
    """{variant: score} for raw, shift, scale and rotate."""
    return {name: benchmark.score(_lookup(vectors, calibration, steps)) for name, steps in VARIANTS.items()}


def _lookup(vectors: Vectors, calibration: Calibration, steps: tuple[Step, ...]) -> Lookup:
    return lambda ids, lang: calibration.apply(vectors.get(ids, lang), lang, steps)


def text_of(lang: str, text: str) -> Text:
    """A text under the id that its language and content give it."""
    return Text(f"{lang}/{hashlib.sha256(text.encode()).hexdigest()[:20]}", lang, text)


def distinct(texts: Iterable[Text]) -> list[Text]:
    """Each id once, in order of first appearance."""
    return list({text.id: text for text in texts}.values())


def to_json_lines(texts: Sequence[Text]) -> bytes:
    """The texts as gzipped JSON lines; the same texts give the same bytes."""
    return pack_lines(text._asdict() for text in texts)
