"""Classes of characters that Python's `re` has no names for, to stand between brackets."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

# Scripts that are written without blanks: Han, kana, Thai, Lao, Burmese, Khmer.
UNSPACED = (
    "\u3005\u3006\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"
)


@functools.cache
def of_category(*beginnings: str) -> str:
    """All characters whose Unicode category begins so ("M": combining marks). Takes 0.1 s, once."""
    every = map(chr, range(sys.maxunicode + 1))
    return "".join(re.escape(each) for each in every if unicodedata.category(each).startswith(beginnings))
