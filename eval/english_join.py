"""Pairs of languages without English: two languages' lines joined where their English sides are the same.

Tatoeba has files against English only. Where the English of a German line equals that of a French one, letter for
letter once blanks at the ends are off, the two translate each other. An English sentence that stands on several lines
of a file counts by its first line, so a joined pair has every English sentence once.

How much that gives depends on the files: of the 4,950 pairs of 100 of LASER's files 10 have 100 lines and more (German
and Japanese 487), 26 have 50; most languages share a handful. So a pair needs a minimum, and every count is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ccp_ray.progress import say
from eval.bitext import Pair
from eval.protocol import Text


class Joined(NamedTuple):
    """Joined pairs that are long enough, and lines of the others by name."""

    pairs: list[Pair]
    short: dict[str, int]

    def describe(self) -> dict[str, Any]:
        """{"pairs": lines by pair, "short": lines of those with fewer than the minimum (at least one line)}."""
        lines = {pair.name: len(pair.first_texts) for pair in self.pairs}
        return {"pairs": lines, "short": {name: count for name, count in self.short.items() if count}}

    def counts(self) -> str:
        """The longest of the pairs that are too short."""
        longest = sorted(self.short.items(), key=lambda item: -item[1])[:5]
        return ", ".join(f"{name}: {count}" for name, count in longest if count)


def join_pairs(sides: Mapping[str, Pair], chosen: Sequence[Sequence[str]] | None, minimum: int) -> Joined:
    """The `chosen` pairs of languages (None: all) with at least `minimum` lines.

    `sides` is a language's pair with English, English second. Chosen pairs that are too short, or of which a language
    is not there, are named and left out.
    """
    lines = {lang: _by_english(pair) for lang, pair in sides.items()}
    wanted = list(combinations(sorted(sides), 2)) if chosen is None else [(first, second) for first, second in chosen]
    pairs: list[Pair] = []
    short: dict[str, int] = {}
    for first, second in dict.fromkeys(wanted):
        common = [id for id in lines.get(first, {}) if id in lines.get(second, {})]
        if len(common) < minimum:
            short[f"{first}-{second}"] = len(common)
        else:
            firsts, seconds = [lines[first][id] for id in common], [lines[second][id] for id in common]
            pairs.append(Pair(first, second, firsts, seconds))
    if short and chosen is not None:
        told = ", ".join(f"{name} ({count})" for name, count in short.items())
        say(f"tatoeba: joined pairs of fewer than {minimum} lines are left out: {told}")
    return Joined(pairs, short)


def _by_english(pair: Pair) -> dict[str, Text]:
    """Id of an English sentence -> its translation, in the order of lines."""
    found: dict[str, Text] = {}
    for text, english in zip(pair.first_texts, pair.second_texts, strict=True):
        found.setdefault(english.id, text)
    return found
