"""Embeddings of an evaluation, made by the `embed` job: in the evaluation's own folder, or kept in a cache.

A cache holds embeddings by what decides them: CACHE/DIGEST, where DIGEST covers the encoder's and the texts'
fingerprints and the settings. So another evaluation of the same encoder, with another calibration, other benchmarks or
another output, finds them and embeds nothing; one that was killed is continued by the next that asks for the same. It
is a folder of ordinary embeddings artifacts: `ccp-ray calibrate` and `index` read them too, and whoever needs the room
may delete any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from ccp_ray.artifact import Artifact, InputRef, digest_json
from ccp_ray.config import semantic
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.rows import texts_reference
from ccp_ray.storage import open_store

Embed = Callable[[str, str, str, EmbedConfig], Artifact]
"""`ccp_ray.embed.embed`: (encoder, texts, output, settings) -> embeddings."""


SENTENCES_A_PIECE = 4_096
"""All of Tatoeba is three pieces of a corpus' size (65,536 rows), which two workers share badly and sixteen not at all,
and nothing is encoded until the first of them is tokenised. Now they are 34; the last that is waited for is 3 % of two
workers' time."""


def _with_defaults(value: Any) -> Any:
    return {"dtype": "float32", "piece_rows": SENTENCES_A_PIECE} | value if isinstance(value, dict) else value


SentencesEmbedConfig = Annotated[EmbedConfig, BeforeValidator(_with_defaults)]
"""How a benchmark's sentences become vectors: settings that do not name them have float32 and `SENTENCES_A_PIECE`."""


class Encoding(NamedTuple):
    """An encoder and its settings."""

    encoder: InputRef
    config: EmbedConfig


class Keeper:
    """Embeds texts to where they are kept, each of them once."""

    def __init__(self, embed: Embed, output: str, cache: str | None) -> None:
        self._embed, self._output, self._cache = embed, open_store(output), cache

    @property
    def cached(self) -> bool:
        return self._cache is not None

    def embedded(self, uri: str, encoding: Encoding, name: str) -> Artifact:
        """The embeddings of a file or folder of texts. `name`: its folder below the output where there is no cache."""
        place = self._output.uri(name) if self._cache is None else self._kept(self._cache, uri, encoding)
        return self._embed(encoding.encoder.uri, uri, place, encoding.config)

    def _kept(self, cache: str, uri: str, encoding: Encoding) -> str:
        made_of = {
            "encoder": encoding.encoder.fingerprint,
            "texts": texts_reference(uri).fingerprint,
            "config": semantic(encoding.config),
        }
        return open_store(cache).uri(digest_json(made_of)[:32])
