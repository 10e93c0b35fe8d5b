"""A novel in TEI P5 (as ELTeC marks them up) to its title and chapters, and long chapters to pieces.

A chapter is a `div type="chapter"`, or an innermost `div` outside of one; without any `div`, the body. Divisions that
only group chapters (parts, volumes) are passed through, their own mottos are not read, and front and back matter are
left out. In a chapter each block (`p`, `quote`, `lg`, …) is one paragraph with its blanks collapsed; lines of verse
that follow one another are one paragraph. Headings, labels (the "Dear Meg," of a letter), notes and their markers, page
breaks and running heads are no part of the text. A word that a page break cuts stays cut: whether its hyphen belongs to
it cannot be known.

A file that declares a document type is refused: entities can make a small file huge or read other files, and no ELTeC
file needs them.

Source: ELTeC's encoding levels 0 and 1, https://distantreading.github.io/Schema/eltec-1.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from ccp_ray.errors import DataError

_NO_TEXT = frozenset({"figure", "fw", "gap", "head", "label", "milestone", "note", "pb", "ref", "trailer"})
_NO_CHAPTER = frozenset({"liminal", "notes", "titlepage"})
_EDITION = re.compile(r"(\s*:[^:]*eltec[^:]*)+$", re.IGNORECASE)


@dataclass(frozen=True)
class Novel:
    """Title and chapters in reading order; a chapter is its paragraphs, each one line without blanks at its ends."""

    title: str
    chapters: list[list[str]]


class _Builder(ElementTree.TreeBuilder):
    """Builds the tree and refuses a document type before anything that it declares is used."""

    def doctype(self, name: str, _public: str | None, _system: str | None) -> None:
        raise DataError(f"it declares a document type ({name}), and such files are not read: entities are not safe")


def read_novel(data: bytes, name: str) -> Novel:
    """Parse one file. Raises DataError that names it: broken XML, a document type, no title, no text."""
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314 - document types are refused
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise DataError(f"{name}: broken XML ({error}); expected a TEI file") from None
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    titles = (_text(title) for stmt in _named(root, "titleStmt") for title in _named(stmt, "title"))
    title = _EDITION.sub("", next(titles, ""))
    chapters = [list(_paragraphs(division)) for body in _named(root, "body") for division in _chapters(body)]
    if not title or not any(chapters):
        raise DataError(f"{name}: holds no {'text' if title else 'title'}; expected a novel in TEI")
    return Novel(title, chapters)


def cut(paragraphs: list[str], most: int) -> list[list[str]]:
    """Cut at paragraph ends into ceil(characters / most) pieces of near-equal length, fewer where paragraphs are long.

    Nothing is lost or reordered. A piece is longer than characters / pieces by at most its last paragraph.
    """
    total = sum(map(len, paragraphs))
    pieces = max(1, -(-total // most))
    out: list[list[str]] = [[]]
    read = slot = 0
    for paragraph in paragraphs:
        if read * pieces >= total * (slot + 1):
            slot = read * pieces // total
            out.append([])
        out[-1].append(paragraph)
        read += len(paragraph)
    return out


def _chapters(node: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """The divisions that hold text, in order; a grouping division gives those within it."""
    inner = [child for child in node if _name(child) == "div"]
    if node.get("type") == "chapter" or not inner:
        yield node
        return
    for child in inner:
        if (child.get("type") or "").lower() not in _NO_CHAPTER:
            yield from _chapters(child)


def _paragraphs(node: ElementTree.Element) -> Iterator[str]:
    verse: list[str] = []
    for child in node:
        name = _name(child)
        if name in _NO_TEXT:
            continue
        if name == "l":
            verse.append(_text(child))
            continue
        yield from filter(None, [" ".join(verse)])
        verse = []
        yield from _paragraphs(child) if name == "div" else filter(None, [_text(child)])
    yield from filter(None, [" ".join(verse)])


def _text(element: ElementTree.Element) -> str:
    return " ".join("".join(_strings(element)).split())


def _strings(element: ElementTree.Element) -> Iterator[str]:
    """The strings of an element; blocks and line breaks within it are set apart by a blank."""
    yield element.text or ""
    for child in element:
        name = _name(child)
        if name not in _NO_TEXT:
            apart = " " if name in ("ab", "l", "lb", "lg", "p", "quote", "sp") else ""
            yield apart
            yield from _strings(child)
            yield apart
        yield child.tail or ""


def _named(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (element for element in root.iter() if _name(element) == name)


def _name(element: ElementTree.Element) -> str:
    """The local name; the namespace of TEI is not insisted on."""
    return element.tag.rpartition("}")[2]
