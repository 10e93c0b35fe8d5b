"""Passages as dense retrieval distributes them: one line of a file to its id, title and text.

    TSV            id<TAB>text<TAB>title, Python's csv quoting: "a ""quoted"" text"    (DPR, XOR-Retrieve)
    JSON lines     {"id": "15607#5", "contents": "title\\n\\ntext"}                      (Mr.TyDi, Anserini)

TSV has no columns of its own choice: DPR and what descends from it read the three by position and leave out every row
whose id is "id", so a file may have the header line or not, and files that were joined may have it in the middle.
A byte range of a file can be read without its head for the same reason. A quoted field with a line end in it cannot:
such a row is bad here. (DPR's and XOR-Retrieve's files have none.)

What an encoder sees of a TSV row is `title\\n\\ntext`, the same as Mr.TyDi's contents: DPR's own code gives title and
text to the tokenizer as a pair, `title [SEP] text`; here they are one text, parted by white space as pyserini's are.
Where a text is scored (XOR-Retrieve's R@kt) it stands alone, without its title, as in the CCP authors' code.

Parsing costs 2 µs a line: 18 million passages 40 s, shared out over the byte ranges.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

PASSAGE_COLUMNS = ("id", "text", "title")
CONTENTS = "contents"
TITLE_END = "\n\n"
_NEXT = "next"


def parse_passage(line: str) -> dict[str, str] | str | None:
    """{"id", "text", "title"} of a TSV line, what is wrong with it, or None for the header."""
    try:
        rows = list(csv.reader([line, _NEXT], delimiter="\t"))
    except csv.Error as error:
        return f"not a line of tab-separated values ({error})"
    if rows[-1] != [_NEXT]:
        return "a quoted field does not end on its line; every passage must stand on one line"
    if len(rows[0]) != len(PASSAGE_COLUMNS):
        found = f"{len(rows[0])} column{'' if len(rows[0]) == 1 else 's'}"
        return f"{found}, expected three, parted by tabs: {', '.join(PASSAGE_COLUMNS)}"
    fields = dict(zip(PASSAGE_COLUMNS, rows[0], strict=True))
    return None if fields["id"] == "id" else fields


def with_text(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A JSON row whose `contents` is its text, where it has no `text`."""
    return {**fields, "text": fields[CONTENTS]} if CONTENTS in fields and "text" not in fields else fields


def joined(title: str | None, text: str) -> str:
    """Title and text as one text to encode."""
    return f"{title}{TITLE_END}{text}" if title else text


def tsv_line(id: str, text: str, title: str) -> str:
    """The line that `parse_passage` reads back; white space that ends lines becomes a blank."""
    return "\t".join(_field(value) for value in (id, text, title)) + "\n"


def _field(value: str) -> str:
    plain = value.replace("\r\n", " ").replace("\n", " ").replace("\r", " ").replace("\t", " ")
    return '"' + plain.replace('"', '""') + '"' if '"' in plain else plain
