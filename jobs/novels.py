"""Novels of ELTeC (European Literary Text Collection) as documents: from pinned commits of its public repositories.

`novels.json` beside this module names for each language the repository, the commit and the works: those held back for
context retrieval (`dev`, whole works) and the others. A work's file is found by its id in the tree of the commit. Each
language gets at most 9 MB of text, in even shares: of each work its beginning, chapters in order, and a chapter of more
than 16,000 characters cut at paragraph ends. One JSON object a line (`id, lang, title, text, source, license, split`),
paragraphs on lines of their own, gzip without a time stamp: the same commit, sentence splitter and zlib give the same
bytes.

Measured on 99 made-up novels, 79 MB of XML: 320 MB of memory at most; the time is nearly all git's.

Sentences that stand in the Tatoeba test files of the language are left out, so that no test sentence is trained on.

ELTeC (COST Action CA16204), https://github.com/COST-ELTeC: texts in the public domain, markup CC BY 4.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import pack_lines
from ccp_ray.sentences import SPLITTER, id_hash, split_sentences
from jobs.pinned import PinnedTree, pinned_tree
from jobs.tei import Novel, cut, read_novel

BASE = "https://github.com/COST-ELTeC/"
LICENSE = "PD text, CC-BY-4.0 markup"
_TABLE = Path(__file__).with_name("novels.json")
_RULES = 1  # raise it when the rules below or those of jobs.tei give other text
_BYTES_PER_LANGUAGE = 9_000_000
_CHARACTERS_PER_DOCUMENT = 16_000


class Collection(StrictModel):
    """The novels of one language."""

    repository: str
    commit: str = Field(pattern=r"^[0-9a-f]{40}$", description="complete, for it is the checksum")
    train: list[str] = Field(description="works by their ids; in the table one text with blanks between")
    dev: list[str] = Field(description="works held back whole")

    def works(self) -> list[tuple[str, str]]:
        """(work, split) in the order of the ids."""
        return sorted([(work, "train") for work in self.train] + [(work, "dev") for work in self.dev])


def collections(languages: Iterable[str] | None = None) -> dict[str, Collection]:
    """The table, or the chosen languages of it. Raises UsageError for a language that it does not have."""
    table = {
        lang: Collection.model_validate(entry | {split: entry[split].split() for split in ("train", "dev")})
        for lang, entry in json.loads(_TABLE.read_text()).items()
    }
    if languages is None:
        return table
    chosen = list(dict.fromkeys(languages))
    unknown = [lang for lang in chosen if lang not in table]
    if unknown or not chosen:
        raise UsageError(
            f"no novels are pinned for {', '.join(unknown) or 'no language'}; there are {', '.join(table)}; "
            "take documents of other languages with --from DIR, or bring your own"
        )
    return {lang: table[lang] for lang in chosen}


def recipe(lang: str, collection: Collection, left_out: frozenset[str]) -> str:
    """What decides the bytes of a language's file, as 16 hexadecimal digits."""
    limits = (_RULES, _BYTES_PER_LANGUAGE, _CHARACTERS_PER_DOCUMENT, SPLITTER)
    return f"{id_hash(json.dumps([lang, collection.model_dump(), limits, sorted(left_out)])):016x}"


def documents(lang: str, collection: Collection, base: str, left_out: frozenset[str]) -> bytes:
    """The language's documents as gzipped JSON lines.

    `base` is the address or folder above the repositories; `left_out` are sentences to leave out. Raises UsageError,
    DataError: no git, no network, another commit, a work that is not there, a file that cannot be read.
    """
    works = collection.works()
    share = _BYTES_PER_LANGUAGE // len(works)
    rows: list[dict[str, str]] = []
    with pinned_tree(f"{base.rstrip('/')}/{collection.repository}", collection.commit) as tree:
        paths = _paths(tree, [work for work, _ in works])
        for (work, split), (path, data) in zip(works, tree.read(paths), strict=True):
            fixed = {"source": "eltec", "license": LICENSE, "split": split}
            novel = read_novel(data, f"{tree.url}/{path} at commit {tree.commit}")
            for name, text in _beginning(lang, novel, share, left_out):
                rows.append({"id": f"eltec-{work}-{name}", "lang": lang, "title": novel.title, "text": text} | fixed)
    return pack_lines(rows)


def _paths(tree: PinnedTree, works: list[str]) -> list[str]:
    """Each work's file: ID.xml or ID_anything.xml in level1, else in level0. Raises DataError naming what is not."""
    levels = [{path: path.split("/")[1] for path in tree.blobs if re.match(rf"{level}/[^/]+\.xml$", path)}
              for level in ("level1", "level0")]  # fmt: skip
    found: dict[str, list[str]] = {}
    for work in works:
        named = re.compile(rf"{re.escape(work)}(?![0-9A-Za-z])")
        found[work] = next(
            filter(None, ([p for p, name in level.items() if named.match(name)] for level in levels)), []
        )
    wrong = [f"{work} ({', '.join(paths) or 'no file'})" for work, paths in found.items() if len(paths) != 1]
    if wrong:
        raise DataError(
            f"{tree.url}: commit {tree.commit} does not have one file for each of {', '.join(wrong)}; novels.json and "
            "the commit do not belong together: report it, leave the language out, or take a copy with --from DIR"
        )
    return [paths[0] for paths in found.values()]


def _beginning(lang: str, novel: Novel, share: int, left_out: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(chapter or chapter.piece, text) from the beginning on, at most `share` bytes, but at least one."""
    read = 0
    for number, chapter in enumerate(novel.chapters):
        pieces = cut(chapter, _CHARACTERS_PER_DOCUMENT)
        for piece, paragraphs in enumerate(pieces):
            kept = filter(None, (_without(lang, paragraph, left_out) for paragraph in paragraphs))
            text = "\n".join(kept)
            size = len(text.encode())
            if read and read + size > share:
                return
            if text:
                yield f"{number}.{piece}" if len(pieces) > 1 else f"{number}", text
            read += size


def _without(lang: str, paragraph: str, left_out: frozenset[str]) -> str:
    """The paragraph without its sentences that are to be left out; untouched where it has none."""
    if not left_out:
        return paragraph
    sentences = split_sentences(lang, paragraph)
    kept = [sentence for sentence in sentences if sentence not in left_out]
    return paragraph if len(kept) == len(sentences) else " ".join(kept)
