"""Lines of a text file, plain or packed, with their numbers: questions, judgements and runs are read so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ccp_ray.errors import DataError
from ccp_ray.lines import PACKED, source_file, whole_lines
from ccp_ray.storage import read_uri


def numbered_lines(uri: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 file; empty lines are left out.

    Raises UsageError where there is no such file, DataError naming the line that is not UTF-8.
    """
    for number, line in enumerate(whole_lines(source_file(uri)), 1):
        try:
            text = line.data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{uri}, line {number}: not UTF-8 (byte {error.start} of the line)") from None
        if text.strip():
            yield number, text


def all_lines(uri: str) -> list[str]:
    """All lines of a UTF-8 file at once, empty ones too: faster than `numbered_lines`. Raises as that does."""
    if uri.endswith(PACKED):
        numbered = list(numbered_lines(uri))
        lines = [""] * (numbered[-1][0] if numbered else 0)
        for number, line in numbered:
            lines[number - 1] = line
        return lines
    try:
        return read_uri(uri).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        return [line for _, line in numbered_lines(uri)]  # which names the line and raises


def json_objects(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSON-lines file. Raises UsageError, DataError naming the line that is no object."""
    for number, line in numbered_lines(uri):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{uri}, line {number}: not JSON, expected one object a line ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{uri}, line {number}: a JSON {type(value).__name__}, expected an object")
        yield number, value
