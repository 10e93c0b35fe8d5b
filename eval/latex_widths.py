"""How wide a table gets on paper, where its column heads are broken, and which columns go into a second table.

Widths are counted in characters: in the small type that the tables are set in a line of a one-column page (345 pt) has
about 80, and a gap between columns is worth one and a half. Heads of columns of numbers are set in lines, broken at
blanks, so that "MiniLM + rotate" takes no more than its longest part. What is still too wide is parted by columns,
evenly, and the columns of text stand in each part again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from eval.report_tables import Table

LINE = 80.0
WIDE = 24  # characters of a column of text that is then set in lines
_IN_LINES = 16.0  # which are so wide
_GAP = 1.5


def head_lines(table: Table, number: int) -> list[str]:
    """The head of a column; of a column of numbers in lines no longer than its longest part or cell."""
    name = table.columns[number]
    if number < table.texts:
        return [name]
    most = _number_width(table, number)
    lines: list[str] = []
    for part in _parts(name):
        if lines and len(lines[-1]) + 1 + len(part) <= most:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines or [""]


def column_parts(table: Table, most: float) -> list[Table]:
    """The table as it is where it is no wider than `most` characters; else its columns of numbers in several."""
    texts = sum(_text_width(table, number) + _GAP for number in range(table.texts))
    numbers = list(range(table.texts, len(table.columns)))
    wide = [_number_width(table, number) + _GAP for number in numbers]
    for count in range(1, len(numbers) + 1):
        size = math.ceil(len(numbers) / count)
        starts = range(0, len(numbers), size)
        if all(texts + sum(wide[start : start + size]) <= most for start in starts) or size == 1:
            return [_chosen(table, numbers[start : start + size]) for start in starts]
    return [table]


def longest_cell(table: Table, number: int) -> int:
    """Characters of a column's longest cell."""
    return max((len(row[number].text) for row in table.rows), default=0)


def _chosen(table: Table, numbers: list[int]) -> Table:
    kept = [*range(table.texts), *numbers]
    rows = [[row[number] for number in kept] for row in table.rows]
    return table._replace(columns=[table.columns[number] for number in kept], rows=rows)


def _text_width(table: Table, number: int) -> float:
    longest = longest_cell(table, number)
    return max(len(table.columns[number]), longest if longest <= WIDE else _IN_LINES)


def _number_width(table: Table, number: int) -> int:
    return max([longest_cell(table, number), *map(len, _parts(table.columns[number]))], default=0)


def _parts(name: str) -> Iterator[str]:
    """Words; a plus stays with the word after it."""
    words = name.split()
    for place, word in enumerate(words):
        if word == "+" and place + 1 < len(words):
            continue
        yield f"+ {word}" if place and words[place - 1] == "+" else word
