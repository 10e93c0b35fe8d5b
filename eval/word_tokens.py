"""NLTK's `word_tokenize`, as XOR-Retrieve's official script calls it: each distinct text once, over processes.

The words come from NLTK and nothing else: with another tokenizer 2,000 tokens would be other tokens. Its sentence
model (`punkt_tab`) is data that NLTK loads by itself; where it is missing, this says how to get it.

Tokens have no white space in them, so a text is kept as its tokens joined by blanks, and their number: a passage of
100 words takes 600 bytes. Tokenising takes 1 ms for such a passage, far more than all else in the score; so it is done
for what can decide something only (`eval.xor_measures`), and by Ray tasks where there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ccp_ray.errors import UsageError, carry, raise_carried
from ccp_ray.session import cluster_cpus, ray_session

_ALONE = 4000  # texts that one process tokenises sooner than Ray has started
_CHUNK = 250


class Tokenised(NamedTuple):
    """Tokens joined by blanks, and how many they are."""

    joined: str
    size: int

    def first(self, count: int) -> str:
        """The first `count` tokens, joined by blanks."""
        return self.joined if count >= self.size else " ".join(self.joined.split(" ", count)[:count])


class WordTokens:
    """Tokens of texts, each distinct text tokenised once. Memory: all of them."""

    def __init__(self, alone: int = _ALONE) -> None:
        self._known: dict[str, Tokenised] = {}
        self._alone = alone

    def __getitem__(self, text: str) -> Tokenised:
        return self._known[text]

    def add(self, texts: Iterable[str]) -> None:
        """Tokenise those that are new. Raises UsageError where NLTK's sentence model is missing."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = tokenise(new) if len(new) <= self._alone else _spread(new)
        self._known.update(zip(new, found, strict=True))


def tokenise(texts: Sequence[str]) -> list[Tokenised]:
    """In this process. Raises UsageError where NLTK's sentence model is missing."""
    import nltk

    try:
        words = [nltk.word_tokenize(text) for text in texts]
    except LookupError:
        raise UsageError(
            "NLTK's sentence model punkt_tab is missing, which XOR-Retrieve's official tokens need; fetch it once with "
            "`python -m nltk.downloader punkt_tab` (behind a firewall: put tokenizers/punkt_tab of nltk_data into a "
            "folder and name the folder by NLTK_DATA)"
        ) from None
    return [Tokenised(" ".join(tokens), len(tokens)) for tokens in words]


def _spread(texts: Sequence[str]) -> list[Tokenised]:
    """By Ray tasks, in the current session or in a local Ray."""
    import ray

    tokenise(texts[:1])  # a missing model is told before anything starts
    with ray_session():
        remote = ray.remote(num_cpus=1)(_carried).options(name="word tokens")
        size = min(_CHUNK, -(-len(texts) // cluster_cpus()))
        parts = ray.get([remote.remote(texts[start : start + size]) for start in range(0, len(texts), size)])
    for _, error in parts:
        raise_carried(error)
    return [Tokenised(*pair) for found, _ in parts for pair in found]


def _carried(texts: Sequence[str]) -> tuple[list[tuple[str, int]], str]:
    try:
        return [(one.joined, one.size) for one in tokenise(texts)], ""
    except UsageError as error:
        return [], carry(error)
