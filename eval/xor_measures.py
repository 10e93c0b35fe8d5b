"""R@Nt of XOR-Retrieve: is an answer among the first N tokens of the ranked passages? By the official algorithm.

For each question: `word_tokenize` of each passage, one after the other; the tokens are put together until there are
N; the first N, joined by blanks, are the string. A hit: an answer (not "yes" or "no") is a substring of it, capitals
as they stand. A question with no other answers is skipped.

Tokenising all of 2,110 x 42 passages (5,000 tokens each) would take 2 minutes on two cores. Most of it decides
nothing, and is left out without changing any result:

- A word of an answer without quotes (NLTK rewrites those) that stands in no passage's text stands in no token: NLTK
  cuts words, and never joins them. So an answer with such a word is out, and so is one whose words come late: a
  passage has as many tokens as words parted by white space, or more. A question whose answers are all out is a miss,
  and nothing is tokenised.
- What is found in a head of the string is found in every longer one: a question ends with its first hit.

Questions are worked on in rounds, so that a round's passages are tokenised at once, each distinct one once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eval.word_tokens import WordTokens

_QUOTES = frozenset("\"'`\u00ab\u00bb\u201c\u201d\u201e\u2018\u2019")
_STEP = 8
_NOT_SPANS = ("yes", "no")


class Asked(NamedTuple):
    """A question's answers that are spans of text, and the passages ranked for it, best first."""

    answers: list[str]
    passages: list[str]


def spans(answers: Sequence[str]) -> list[str]:
    """The answers that count: all but yes and no."""
    return [answer for answer in answers if answer not in _NOT_SPANS]


def answered(asked: Mapping[str, Asked], limits: Sequence[int], words: WordTokens) -> dict[str, tuple[bool, ...]]:
    """{question: whether an answer is within each limit of tokens}; limits rise."""
    open_ = {name: _Search(one, limits, words) for name, one in asked.items()}
    results: dict[str, tuple[bool, ...]] = {}
    while open_:
        wanted = {name: search.wanted() for name, search in open_.items()}
        words.add(text for texts in wanted.values() for text in texts)
        for name in list(open_):
            found = open_[name].advance(wanted[name])
            if found is not None:
                results[name] = found
                del open_[name]
    return {name: results[name] for name in asked}


class _Search:
    """One question's passages, read from the top until its result is known."""

    def __init__(self, asked: Asked, limits: Sequence[int], words: WordTokens) -> None:
        self._passages, self._limits, self._words = asked.passages, limits, words
        first = {answer: _first_possible(answer, asked.passages, limits[-1]) for answer in asked.answers}
        self._answers = [answer for answer, place in first.items() if place is not None]
        # Before this passage nothing can be found, so all up to it are tokenised at once.
        self._first = min((place for place in first.values() if place is not None), default=0)
        self._parts: list[str] = []
        self._count = self._read = 0

    def wanted(self) -> Sequence[str]:
        """The passages to tokenise next."""
        if not self._answers:
            return []
        return self._passages[self._read : self._read + _STEP if self._read else self._first + 1]

    def advance(self, passages: Sequence[str]) -> tuple[bool, ...] | None:
        """Take these passages' tokens. Returns the result, or None while it is open."""
        longest = self._limits[-1]
        for text in passages:
            tokens = self._words[text]
            if tokens.size and self._count < longest:
                self._parts.append(tokens.first(longest - self._count))
                self._count += tokens.size
        self._read += len(passages)
        text = " ".join(self._parts)
        ended = not passages or self._read >= len(self._passages) or self._count >= longest
        if not ended and not self._found(text):
            return None  # what is found in a head is found in all that is longer; so else every limit is decided
        return tuple(self._found(" ".join(text.split(" ", limit)[:limit])) for limit in self._limits)

    def _found(self, text: str) -> bool:
        return any(answer in text for answer in self._answers)


def _first_possible(answer: str, passages: Sequence[str], limit: int) -> int | None:
    """Number of the first passage by which each plain word of the answer has been seen.

    None where that is never, or only after `limit` tokens: a passage has as many tokens as words, or more.
    """
    last = 0
    for word in answer.split():
        if not _QUOTES & set(word):
            place = next((number for number, text in enumerate(passages) if word in text), None)
            if place is None:
                return None
            last = max(last, place)
    return last if sum(len(text.split()) for text in passages[:last]) < limit else None
