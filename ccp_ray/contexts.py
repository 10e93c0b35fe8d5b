"""Context pairs and masked sentences, read by position from the corpus' token shards.

A pair is a centre sentence and one drawn uniformly from the other sentences of its document within `radius`
(5 in CCP's kin). Shards are memory-mapped, so a process holds pages, not the corpus; shards on S3 are copied
once to the node's cache folder.

All sentences of a group are gathered in a few array operations: 64 pairs take 0.35 ms on a core, one by one 1.6 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        # Plain arrays over the mapped files: np.memmap costs 6 microseconds a slice.
        self.tokens, self.sentences, self.documents, self.hashes = (
            np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for path in paths
        )

    def tokens_of(self, sentence_N: NDArray[np.int64], room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sentences' tokens end to end, `room` of each at most, and their lengths [N]."""
        start_N = self.sentences[sentence_N]
        length_N = np.minimum(self.sentences[sentence_N + 1] - start_N, room)
        return self.tokens[_ranges(start_N, length_N)].astype(np.int64), length_N

    def contexts_of(self, sentence_N: NDArray[np.int64], draw_N: NDArray[np.float64], radius: int) -> NDArray[np.int64]:
        """For each sentence another of its document, at most `radius` away; draws in [0, 1)."""
        document_N = np.searchsorted(self.documents, sentence_N, side="right") - 1
        low_N = np.maximum(self.documents[document_N], sentence_N - radius)
        high_N = np.minimum(self.documents[document_N + 1] - 1, sentence_N + radius)
        context_N = low_N + (draw_N * (high_N - low_N)).astype(np.int64)
        return np.asarray(context_N + (context_N >= sentence_N))


def _ranges(start_N: NDArray[np.int64], length_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """start to start + length - 1 of each, end to end."""
    before_N = np.cumsum(length_N) - length_N
    return np.asarray(np.repeat(start_N - before_N, length_N) + np.arange(int(length_N.sum())))


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
        draw_P = random_generator(0, "context", *seed).random(len(indices))
        centres, contexts = _rows(len(indices)), _rows(len(indices))
        hashes_2P = np.empty((2, len(indices)), dtype=np.int64)
        for shard, place_N, centre_N in self._by_shard(lang, indices):
            context_N = shard.contexts_of(centre_N, draw_P[place_N], radius)
            for side, (rows, sentence_N) in enumerate(((centres, centre_N), (contexts, context_N))):
                rows[place_N] = self._inputs(shard, sentence_N)
                hashes_2P[side, place_N] = shard.hashes[sentence_N].view(np.int64)
        return Pairs(list(centres), list(contexts), hashes_2P[0], hashes_2P[1])

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
        rows = _rows(len(indices))
        for shard, place_N, sentence_N in self._by_shard(lang, indices):
            rows[place_N] = self._inputs(shard, sentence_N)
        return list(rows)

    def _by_shard(
        self, lang: str, index_N: NDArray[np.int64]
    ) -> Iterator[tuple[_Shard, NDArray[np.int64], NDArray[np.int64]]]:
        """Each shard that holds some of the sentences: their places in `index_N`, and their numbers in the shard."""
        shard_N = np.searchsorted(self._ends[lang], index_N, side="right")
        for number in np.unique(shard_N):
            place_N = np.flatnonzero(shard_N == number)
            start = int(self._ends[lang][number - 1]) if number else 0
            yield self._shards[lang][number], place_N, index_N[place_N] - start

    def _inputs(self, shard: _Shard, sentence_N: NDArray[np.int64]) -> NDArray[np.object_]:
        """Model inputs of some sentences: special tokens around at most `room` tokens."""
        tokens_T, length_N = shard.tokens_of(sentence_N, self.room)
        before, around = len(self.prefix), len(self.prefix) + len(self.suffix)
        end_N = np.cumsum(length_N + around)
        start_N = end_N - length_N - around
        flat = np.empty(int(end_N[-1]), dtype=np.int64)
        flat[start_N[:, None] + np.arange(before)] = self.prefix
        flat[_ranges(start_N + before, length_N)] = tokens_T
        flat[end_N[:, None] - len(self.suffix) + np.arange(len(self.suffix))] = self.suffix
        rows = _rows(len(sentence_N))
        for row, (start, end) in enumerate(zip(start_N.tolist(), end_N.tolist(), strict=True)):
            rows[row] = flat[start:end]
        return rows


def _rows(count: int) -> NDArray[np.object_]:
    """Room for `count` rows of different lengths, to be filled by place."""
    return np.empty(count, dtype=np.object_)
