"""Context pairs and masked sentences, read by position from the corpus' token shards.

A pair is a centre sentence and one drawn uniformly from the other sentences of its document within `radius`
(5 in CCP's kin). Shards are memory-mapped, so a process holds pages, not the corpus; shards on S3 are copied
once to the node's cache folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.batching import Tokens
from ccp_ray.corpus import Corpus, TokenShard
from ccp_ray.ledger import FileRecord, verified_copy
from ccp_ray.model_source import cache_folder
from ccp_ray.sampling import Draw, random_generator
from ccp_ray.storage import Store


class Pairs(NamedTuple):
    """P centre sentences, their contexts, and the hashes by which duplicates are known ([P] each)."""

    centres: list[Tokens]
    contexts: list[Tokens]
    centre_hashes: NDArray[np.int64]
    context_hashes: NDArray[np.int64]


class _Shard:
    """One token shard: tokens without special tokens, sentence and document offsets, hashes."""

    def __init__(self, store: Store, keys: TokenShard, records: Mapping[str, FileRecord]) -> None:
        self.name = keys.tokens.split("/")[-2]
        names = (keys.tokens, keys.sentences, keys.documents, keys.hashes)
        paths = [verified_copy(store, records[name], cache_folder() / "shards") for name in names]
        self.tokens, self.sentences, self.documents, self.hashes = (np.load(path, mmap_mode="r") for path in paths)

    def tokens_of(self, sentence: int) -> NDArray[np.int64]:
        return np.asarray(self.tokens[self.sentences[sentence] : self.sentences[sentence + 1]], dtype=np.int64)

    def context_of(self, sentence: int, draw: float, radius: int) -> int:
        """A sentence of the same document, at most `radius` away; draw in [0, 1)."""
        document = int(np.searchsorted(self.documents, sentence, side="right")) - 1
        low = max(int(self.documents[document]), sentence - radius)
        high = min(int(self.documents[document + 1]) - 1, sentence + radius)
        context = low + int(draw * (high - low))
        return context + (context >= sentence)


class ContextReader:
    """Sentences of a corpus by language and number, as model input."""

    def __init__(
        self, corpus: Corpus, languages: Sequence[str], special: tuple[list[int], list[int]], max_tokens: int
    ) -> None:
        records = {record.path: record for record in corpus.artifact.files}
        self.prefix, self.suffix = special
        self.room = max_tokens - len(self.prefix) - len(self.suffix)
        self._shards: dict[str, list[_Shard]] = {}
        self._ends: dict[str, NDArray[np.int64]] = {}
        for lang in languages:
            shards = [_Shard(corpus.store, keys, records) for keys in corpus.token_shards(lang)]
            self._shards[lang] = [shard for shard in shards if len(shard.hashes)]
            self._ends[lang] = np.cumsum([len(shard.hashes) for shard in self._shards[lang]])

    @property
    def sizes(self) -> dict[str, int]:
        """Training sentences by language."""
        return {lang: int(ends[-1]) if len(ends) else 0 for lang, ends in self._ends.items()}

    def document(self, lang: str, index: int) -> str:
        """`SHARD/NUMBER` of the document that sentence `index` is of: token shard below tokens/LANG, number in it."""
        number = int(np.searchsorted(self._ends[lang], index, side="right"))
        start = int(self._ends[lang][number - 1]) if number else 0
        shard = self._shards[lang][number]
        return f"{shard.name}/{int(np.searchsorted(shard.documents, index - start, side='right')) - 1}"

    def pairs(self, lang: str, indices: NDArray[np.int64], radius: int, *seed: object) -> Pairs:
        """A context pair for each centre in `indices` [P]; `seed` names the draw."""
        draws = random_generator(0, "context", *seed).random(len(indices))
        centres, contexts, hashes = [], [], np.empty((2, len(indices)), dtype=np.int64)
        for i, (index, draw) in enumerate(zip(indices, draws, strict=True)):
            shard, sentence = self._find(lang, int(index))
            context = shard.context_of(sentence, float(draw), radius)
            centres.append(self._input(shard, sentence))
            contexts.append(self._input(shard, context))
            hashes[:, i] = shard.hashes[[sentence, context]].view(np.int64)
        return Pairs(centres, contexts, hashes[0], hashes[1])

    def mixed_pairs(self, draws: Sequence[Draw], radius: int, *seed: object) -> Pairs:
        """Context pairs of several languages together, in the order of `draws`."""
        # The language is part of the name: else the i-th pair of every language would take the same draw.
        parts = [self.pairs(lang, indices, radius, *seed, lang) for lang, indices in draws]
        return Pairs(
            [centre for part in parts for centre in part.centres],
            [context for part in parts for context in part.contexts],
            np.concatenate([part.centre_hashes for part in parts]),
            np.concatenate([part.context_hashes for part in parts]),
        )

    def sentences(self, lang: str, indices: NDArray[np.int64]) -> list[Tokens]:
        """The sentences with these numbers."""
        return [self._input(*self._find(lang, int(index))) for index in indices]

    def _find(self, lang: str, index: int) -> tuple[_Shard, int]:
        number = int(np.searchsorted(self._ends[lang], index, side="right"))
        start = int(self._ends[lang][number - 1]) if number else 0
        return self._shards[lang][number], index - start

    def _input(self, shard: _Shard, sentence: int) -> Tokens:
        return np.asarray([*self.prefix, *shard.tokens_of(sentence)[: self.room], *self.suffix], dtype=np.int64)
