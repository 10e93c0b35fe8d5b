"""Words for lexical search in any language: what BM25 counts.

NFKC and case folding; then runs of letters, digits and combining marks (so that a vowel sign does not cut a Bengali,
Telugu or Thai word). Scripts that are written without blanks (Han, kana, Thai, Lao, Burmese, Khmer) become character
bigrams, the usual choice where no segmenter is at hand; a single character stands for itself. No stemming and no
stop words: Lucene's analysers, which the published BM25 numbers were made with, have both for some languages, so these
numbers are a little lower there.
"""

from __future__ import annotations

import re
import unicodedata

from ccp_ray.characters import UNSPACED, of_category

_RUN = re.compile(rf"[\w{of_category('M')}]+")
_PART = re.compile(rf"[{UNSPACED}]+|[^{UNSPACED}]+")
_IS_UNSPACED = re.compile(rf"[{UNSPACED}]")


def search_words(text: str) -> list[str]:
    """The words of a text, in order, repeated as they are."""
    words: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if run.isascii():
            words.append(run)
            continue
        for part in _PART.findall(run):
            words += _bigrams(part) if _IS_UNSPACED.match(part) else [part]
    return words


def _bigrams(part: str) -> list[str]:
    return [part[i : i + 2] for i in range(len(part) - 1)] or [part]
