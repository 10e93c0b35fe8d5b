"""Query texts to vectors, as the texts of an index were embedded: the same encoder, pooling, length and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ccp_ray.artifact import Artifact
from ccp_ray.errors import UsageError
from ccp_ray.model_source import model_reference

if TYPE_CHECKING:
    from ccp_ray.calibration import Calibration
    from ccp_ray.encoder import Encoder

Languages = Sequence[str | None] | str | None


class QueryEncoder:
    """Encoder and calibration of an index, each loaded when it is first needed."""

    def __init__(self, index: Artifact) -> None:
        self._index = index
        self.calibrated = bool(index.summary["calibrated"])

    def encode(self, texts: Sequence[str], lang: Languages = None, prompt: str | None = None) -> NDArray[np.float32]:
        """Vectors [Q, D] of texts in a language, or each in its own; `prompt` is put before each text.

        Without one the index' own texts' prompt is: the one that they were embedded with, else the folder's default.

        Raises UsageError if the encoder changed since, or if the index is calibrated and a language is missing.
        """
        if self.calibrated:
            self.check(lang, len(texts))
        return self.calibrate(self.encoder.encode(texts, prompt=prompt), lang)

    def calibrate(self, vectors_QD: NDArray[np.float32], lang: Languages = None) -> NDArray[np.float32]:
        """The encoder's vectors as the index' rows are: calibrated by language, or as they come."""
        if not self.calibrated:
            return vectors_QD
        return self._calibration.apply_each(vectors_QD, self.check(lang, len(vectors_QD)))

    def check(self, lang: Languages, count: int) -> list[str]:
        """The language of each of `count` queries. Raises UsageError for one that is missing or not calibrated."""
        languages = [lang] * count if lang is None or isinstance(lang, str) else list(lang)
        if len(languages) != count:
            raise UsageError(f"lang: {len(languages)} languages for {count} queries; give one, or one each")
        known = ", ".join(self.languages)
        for name in dict.fromkeys(languages):
            if name is None:
                told = f"say the language of the query ({known})"
                raise UsageError(f"--lang: the index is calibrated by language; {told}")
            if name not in self.languages:
                raise UsageError(f"--lang {name}: the calibration does not know this language; it knows {known}")
        return [name for name in languages if name is not None]

    @property
    def languages(self) -> list[str]:
        """Languages that the calibration knows, sorted."""
        return self._calibration.languages

    @cached_property
    def encoder(self) -> Encoder:
        """As the rows were embedded. Raises UsageError if it changed since."""
        from ccp_ray.encoder import Encoder

        recorded, settings = self._index.summary["encoder"], self._index.summary["encoding"]
        if model_reference("encoder", recorded["uri"]).fingerprint != recorded["fingerprint"]:
            raise UsageError(f"{recorded['uri']}: the encoder changed since the index was built; build the index again")
        encoder = Encoder.load(recorded["uri"], pooling=settings["pooling"], prompt=settings.get("prompt")).packed()
        encoder.max_tokens = min(encoder.max_tokens, settings["max_tokens"] or encoder.max_tokens)
        return encoder

    @cached_property
    def _calibration(self) -> Calibration:
        from ccp_ray.calibration import Calibration

        return Calibration.open(self._index.input("calibration").uri)
