"""The objects of a JSON file one after the other: an array of them, one a line, or a single one.

DPR's training files are one array of gigabytes, so the file is never held whole: text is decoded chunk by chunk, and
each object is parsed as soon as it is complete. Memory: one object and a chunk of 4 MiB. An object that the end of a
chunk cuts is parsed again when more is there, which costs under 5 % at DPR's 100 kB an object.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ccp_ray.errors import DataError
from ccp_ray.lines import ROW_LIMIT, content, source_file

_BLANK = re.compile(r"[ \t\r\n]*")


class Located(NamedTuple):
    """A JSON value and where it stands ("object 3, line 40"): counted from 1."""

    place: str
    value: Any


def read_objects(uri: str) -> Iterator[Located]:
    """The objects of a file (.gz and .zst are unpacked) in order.

    Raises UsageError where there is no file, DataError naming line and column of what is not JSON.
    """
    text = _Text(uri)
    in_array = text.skip("[")
    number = 0
    while not text.ended():
        if in_array and text.skip("]"):
            if not text.ended():
                raise text.error("expected nothing after the end of the array")
            return
        if in_array and number and not text.skip(","):
            raise text.error("expected a comma or the end of the array")
        text.ended()  # a cut between two objects: more text comes in
        number += 1
        place = f"object {number}, line {text.line}"
        yield Located(place, text.value())
    if in_array:
        raise text.error("the file ends within the array")


class _Text:
    """The file's text from a position on."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._chunks = content(source_file(uri))
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._held, self._at = "", 0
        self.line, self._column = 1, 1
        self._read = 0
        self._more()

    def ended(self) -> bool:
        """Whether nothing but blanks is left; goes to the next character that is none."""
        while True:
            self._go(_BLANK.match(self._held, self._at).end())  # type: ignore[union-attr] # it matches ""
            if self._at < len(self._held):
                return False
            if not self._more():
                return True

    def skip(self, mark: str) -> bool:
        """Go past the mark if it comes next, blanks aside."""
        if self.ended() or self._held[self._at] != mark:
            return False
        self._go(self._at + 1)
        return True

    def value(self) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                found, stop = self._json.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                into = error.pos - self._at
                if len(self._held) - self._at <= ROW_LIMIT and self._more():
                    continue
                self._go(self._at + into)
                raise self.error(f"not JSON ({error.msg})") from None
            except RecursionError:
                raise self.error("not JSON that can be read (nested too deeply)") from None
            self._go(stop)
            return found

    def error(self, what: str) -> DataError:
        return DataError(f"{self.uri}, line {self.line}, column {self._column}: {what}; repair the file")

    def _go(self, stop: int) -> None:
        """Move on, and count lines."""
        passed = self._held.count("\n", self._at, stop)
        if passed:
            self.line += passed
            self._column = stop - self._held.rindex("\n", self._at, stop)
        else:
            self._column += stop - self._at
        self._at = stop

    def _more(self) -> bool:
        """Take another chunk in; False where there is none."""
        chunk = next(self._chunks, None)
        try:
            text = self._decoder.decode(chunk or b"", final=chunk is None)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.uri}, byte {self._read + error.start}: not UTF-8; repair the file") from None
        self._read += len(chunk or b"")
        self._held, self._at = self._held[self._at :] + text, 0
        return chunk is not None
