"""Question translation retrieval, and any other bitext: line-aligned files of any pair, accuracy both ways.

    XX-YY/XX.txt, XX-YY/YY.txt    a folder for each pair; forward queries XX among all of YY
    NAME.XX, NAME.YY              a name for each text; every two languages of a name are a pair, English second

A code is two or three letters, then parts after a hyphen or underscore (`zh_Hant`); in a folder's name, which a hyphen
cuts, parts follow an underscore. The score is a bitext's (`eval.bitext`). Pairs are called `XX-YY`; where several names
have the same two languages, `NAME: XX-YY`. A pair of which one file is missing is named, the rest run.

Lines of which a side is empty are left out. So are, unless `repeated` is set, lines of which a side stood on an earlier
line: two lines with one English sentence would be each other's error (136 of 4,761 Telugu questions go for that). How
many lines that is stands in the result; nothing else is changed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import say
from ccp_ray.storage import Store, open_store
from eval.bitext import Bitext, Pair, plain_lines, same_length
from eval.protocol import text_of

_FOLDER = re.compile(r"(?P<first>[a-z]{2,3}(_\w+)?)-(?P<second>[a-z]{2,3}(_\w+)?)/(?P<lang>[a-z]{2,3}(_\w+)?)\.txt")
_FLAT = re.compile(r"(?P<name>[^/]+)\.(?P<lang>[a-z]{2,3}([-_][A-Za-z0-9]+)*)")
_NO_LANGUAGES = {"csv", "gz", "md", "pdf", "tsv", "txt", "xml", "yml", "zip"}  # endings that would read as codes


class QuestionBitextConfig(StrictModel):
    """Which pairs, and how they are scored."""

    languages: list[str] | None = Field(
        default=None, description="pairs of these, English understood; None: every pair there is"
    )
    margin: bool = Field(default=False, description="score by ratio margin, too")
    neighbours: int = Field(default=4, ge=1, description="of the margin")
    repeated: bool = Field(default=False, description="keep lines of which a side stood on an earlier line")


class _Lines(NamedTuple):
    """A pair and how many of its lines were left out, by reason."""

    pair: Pair
    left_out: dict[str, int]


class QuestionBitext(Bitext):
    """A bitext that knows what was missing and what was left out."""

    def __init__(self, read: Sequence[_Lines], neighbours: int | None, missing: Sequence[str]) -> None:
        super().__init__("question_bitext", [lines.pair for lines in read], neighbours)
        self.missing = list(missing)
        self.left_out = {lines.pair.name: lines.left_out for lines in read if any(lines.left_out.values())}

    def describe(self) -> dict[str, Any]:
        """{"pairs": lines by pair, "left_out": {pair: {"empty", "repeated"}}, "missing"}.

        Missing are pairs that lack a file, and chosen languages that no pair has.
        """
        return super().describe() | {"left_out": self.left_out, "missing": self.missing}


class _Files(NamedTuple):
    """Where a pair's sides lie; `name` tells texts of the same languages apart."""

    first: str
    second: str
    first_key: str
    second_key: str
    name: str = ""


def load_question_bitext(data: str, config: QuestionBitextConfig | None = None) -> QuestionBitext:
    """Read the pairs in `data` or `data/question_bitext`.

    Raises UsageError where there is no pair, DataError for sides of different length and files without sentences.
    """
    config = config or QuestionBitextConfig()
    store, keys = _folder(data)
    found = sorted([*_folder_pairs(keys), *_flat_pairs(keys)])
    chosen = [files for files in found if _is_chosen(files, config.languages)]
    whole = [files for files in chosen if {files.first_key, files.second_key} <= keys]
    known = {lang for files in whole for lang in (files.first, files.second)} | {"en"}
    lacking = [f"{files.first}-{files.second}" for files in chosen if files not in whole]
    lacking += sorted(set(config.languages or ()) - known - {lang for pair in lacking for lang in pair.split("-")})
    if not whole:
        there = ", ".join(sorted({f"{files.first}-{files.second}" for files in found}))
        raise UsageError(f"{store.root}: no pair of the languages chosen has both of its files; there is {there}")
    if lacking:
        say(f"question_bitext: {', '.join(lacking)} left out: files are missing in {store.root}")
    counts = Counter((files.first, files.second) for files in whole)
    read = [_read(store, files, counts[files.first, files.second] > 1, config.repeated) for files in whole]
    return QuestionBitext(read, config.neighbours if config.margin else None, lacking)


def _folder(data: str) -> tuple[Store, set[str]]:
    """`data` itself where it has pairs, else `data/question_bitext`; and the keys there."""
    for uri in (data, f"{data.rstrip('/')}/question_bitext"):
        store = open_store(uri)
        keys = {info.key for info in store.list()}
        if any([*_folder_pairs(keys), *_flat_pairs(keys)]):
            return store, keys
    raise UsageError(
        f"{data}: no XX-YY/XX.txt and XX-YY/YY.txt, and no NAME.XX and NAME.YY, here or in question_bitext/; "
        "give the folder with line-aligned files as data"
    )


def _folder_pairs(keys: Iterable[str]) -> set[_Files]:
    """Of folders XX-YY with at least one of their two files."""
    found = set()
    for key in keys:
        match = _FOLDER.fullmatch(key)
        if match and match["lang"] in (match["first"], match["second"]) and match["first"] != match["second"]:
            first, second = match["first"], match["second"]
            folder = f"{first}-{second}"
            found.add(_Files(first, second, f"{folder}/{first}.txt", f"{folder}/{second}.txt"))
    return found


def _flat_pairs(keys: Iterable[str]) -> set[_Files]:
    """Of names with two languages and more; English second, others by the alphabet."""
    languages: dict[str, list[str]] = {}
    for key in keys:
        match = _FLAT.fullmatch(key)
        if match and match["lang"] not in _NO_LANGUAGES:
            languages.setdefault(match["name"], []).append(match["lang"])
    return {
        _Files(first, second, f"{name}.{first}", f"{name}.{second}", name)
        for name, langs in languages.items()
        for first, second in combinations(sorted(langs, key=lambda lang: (lang in ("en", "eng"), lang)), 2)
    }


def _is_chosen(files: _Files, languages: Sequence[str] | None) -> bool:
    """All languages of the pair are chosen; English need not be, beside another."""
    return languages is None or {files.first, files.second} <= {*languages, "en"}


def _read(store: Store, files: _Files, named: bool, repeated: bool) -> _Lines:
    """Raises DataError for sides of different length, and where nothing is left."""
    first, second = plain_lines(store, files.first_key), plain_lines(store, files.second_key)
    same_length(store.root, first, second, (files.first_key, files.second_key))
    every = list(zip(first, second, strict=True))
    full = [line for line in every if all(line)]
    kept = full if repeated else _once(full)
    if not kept:
        raise DataError(f"{store.uri(files.first_key)}: no line has a sentence here and in {files.second_key}")
    label = f"{files.name}: {files.first}-{files.second}" if named and files.name else ""
    firsts, seconds = [text_of(files.first, a) for a, _ in kept], [text_of(files.second, b) for _, b in kept]
    left_out = {"empty": len(every) - len(full), "repeated": len(full) - len(kept)}
    return _Lines(Pair(files.first, files.second, firsts, seconds, label), left_out)


def _once(lines: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the lines of which a side is that of an earlier one that is kept."""
    kept: list[tuple[str, str]] = []
    seen: tuple[set[str], set[str]] = (set(), set())
    for first, second in lines:
        if first not in seen[0] and second not in seen[1]:
            kept.append((first, second))
            seen[0].add(first)
            seen[1].add(second)
    return kept
