"""Mr.TyDi's files as they are distributed: which there are. What stands in them `ccp_ray.judged` reads.

    topics.mrtydi-v1.1-LANG.SPLIT.txt[.gz]     qid<TAB>question         (also .tsv; or mrtydi-v1.1-LANG/topic.SPLIT.tsv)
    qrels.mrtydi-v1.1-LANG.SPLIT.txt[.gz]      qid Q0 docid relevance   (also mrtydi-v1.1-LANG/qrels.SPLIT.txt)
    mrtydi-v1.1-LANG/collection/docs.jsonl[.gz]   {"id": "15607#5", "contents": "title\\n\\ntext"}

LANG is a code or the English name that the official archives have: mrtydi-v1.1-ar and mrtydi-v1.1-arabic are one.
All may lie in one folder or below it. Columns of qrels are parted by blanks or tabs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ccp_ray.errors import UsageError
from ccp_ray.storage import Store, open_store

NAMES = {
    **{"arabic": "ar", "bengali": "bn", "english": "en", "finnish": "fi", "indonesian": "id", "japanese": "ja"},
    **{"korean": "ko", "russian": "ru", "swahili": "sw", "telugu": "te", "thai": "th"},
}
"""The names in official archives -> codes: the eleven languages."""

VERSION = "1.1"
_SET = r"mrtydi-v(?P<version>[\d.]*\d)-(?P<lang>[a-z]+(?:-[A-Za-z0-9]+)*)"
_ENDING = r"\.{split}\.(?:txt|tsv)(?:\.gz|\.zst)?"
_PATTERNS = {
    "topics": (rf"topics\.{_SET}{_ENDING}", rf"{_SET}/(?:.*/)?topics?{_ENDING}"),
    "qrels": (rf"qrels\.{_SET}{_ENDING}", rf"{_SET}/(?:.*/)?qrels{_ENDING}"),
    "docs": (rf"{_SET}/(?:.*/)?docs\.jsonl(?:\.gz|\.zst)?",),
}


class Files(NamedTuple):
    """URIs of one language; docs is None where the collection is not at hand."""

    topics: str
    qrels: str
    docs: str | None


def find_files(data: str, split: str) -> dict[str, Files]:
    """{language code: files} of the languages that have topics and qrels, in order of the codes.

    Raises UsageError where there are none, or only those of another version, and where a file is there twice.
    """
    store = open_store(data)
    keys = [info.key for info in store.list()]
    found = {kind: _find(store, keys, patterns, split) for kind, patterns in _PATTERNS.items()}
    languages = sorted(found["topics"].keys() & found["qrels"].keys())
    if not languages:
        raise UsageError(
            f"{data}: no Mr.TyDi v{VERSION} of split {split!r}: expected topics.mrtydi-v{VERSION}-LANG.{split}.txt "
            f"(or .txt.gz) and qrels.mrtydi-v{VERSION}-LANG.{split}.txt here or below"
        )
    return {lang: Files(found["topics"][lang], found["qrels"][lang], found["docs"].get(lang)) for lang in languages}


def _find(store: Store, keys: Iterable[str], patterns: tuple[str, ...], split: str) -> dict[str, str]:
    expressions = [re.compile(r"(?:.*/)?" + pattern.replace("{split}", re.escape(split))) for pattern in patterns]
    found: dict[str, str] = {}
    for key in keys:
        match = next((match for one in expressions if (match := one.fullmatch(key))), None)
        if match is None:
            continue
        if match["version"] != VERSION:
            raise UsageError(
                f"{store.uri(key)}: a file of Mr.TyDi v{match['version']}; expected v{VERSION}, whose questions and "
                "ids differ. Take the other version's files out of the folder, or fetch the right ones"
            )
        lang = NAMES.get(match["lang"], match["lang"])
        if lang in found:
            raise UsageError(f"{store.uri(key)}: {found[lang]} has the same content by its name; keep one of them")
        found[lang] = store.uri(key)
    return found
