"""Does a passage answer a question? By its words, where nobody has judged it: distant supervision.

    holds     all tokens of an answer stand in the text, one after the other (`has_answer` of DPR, Karpukhin et al.
              2020, sec. 4.1): enough for a positive
    touches   or its letters do, though within longer words ("Budapest" in "Budapesten"): too much for a negative

A passage that touches an answer and does not hold it is neither. Tokens are DPR's: runs of letters, digits and
combining marks, and each other visible character alone; here characters of scripts without blanks are too, where a run
is a whole clause. Texts are compared in NFKC and without case (DPR: NFD), so that full width does not matter. "yes"
and "no" stand in no passage as an answer, and are none here.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from ccp_ray.characters import UNSPACED, of_category

_NOT_SPANS = {"yes", "no"}


class Answers:
    """The answers of a question that can stand in a passage; false where there are none."""

    def __init__(self, answers: Sequence[str]) -> None:
        plain = [answer for answer in map(_plain, answers) if answer not in _NOT_SPANS]
        self._spans = {answer: span for answer in plain if (span := _tokens(answer)).strip()}

    def __bool__(self) -> bool:
        return bool(self._spans)

    def holds(self, text: str) -> bool:
        """Whether an answer stands in the text, word by word."""
        return self._in_tokens(_plain(text))

    def touches(self, text: str) -> bool:
        """Whether an answer stands in the text, be it within other words."""
        plain = _plain(text)
        return any(answer in plain for answer in self._spans) or self._in_tokens(plain)

    def _in_tokens(self, plain: str) -> bool:
        # To cut a text into tokens takes 20 times as long as to see that it lacks one of an answer's.
        near = [span for span in self._spans.values() if all(token in plain for token in span.split())]
        tokens = _tokens(plain) if near else ""
        return any(span in tokens for span in near)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _tokens(plain: str) -> str:
    """Each token between blanks: a span of tokens is a substring."""
    return f" {' '.join(_token().findall(plain))} "


@functools.cache
def _token() -> re.Pattern[str]:
    return re.compile(rf"(?:[^\W_{UNSPACED}]+|[{of_category('M')}]+)+|[^\s{of_category('Cc', 'Cf')}]")
