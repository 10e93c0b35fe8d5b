"""How many questions or lines the official files have, by language: files of the same names may hold others.

`ccp-ray passages` writes such files, and so does whoever cuts a set short for a trial. Their scores are real, but say
nothing beside published values, so an evaluation says where counts differ and a report does not compare it.
"""

from __future__ import annotations

from collections.abc import Mapping

_OFFICIAL: dict[tuple[str, str], dict[str, int]] = {
    # Zhang et al. 2021, Mr. TyDi (arXiv 2108.08787), table 1.
    ("mrtydi", "test"): {
        **{"ar": 1081, "bn": 111, "en": 744, "fi": 1254, "id": 829, "ja": 720},
        **{"ko": 421, "ru": 995, "sw": 670, "te": 646, "th": 1190},
    },
    # Asai et al. 2021, XOR QA (arXiv 2010.11856), version 1.1: 2,110 in all.
    ("xor_retrieve", "dev"): {"ar": 350, "bn": 312, "fi": 360, "ja": 296, "ko": 299, "ru": 255, "te": 238},
}

# Artetxe and Schwenk 2019 (arXiv 1812.10464): up to 1,000 lines a language. These have fewer, counted in LASER's files.
_LINES = 1000
_SHORTER = """
am=168 ang=134 arq=911 arz=477 ast=127 awa=231 bs=354 ceb=600 ch=137 csb=253 cy=575 dsb=479 fo=262 fy=173
gd=829 gsw=117 hsb=483 hy=742 jv=205 ka=746 kk=575 km=722 ku=410 max=284 ml=687 mn=440 nov=257 orv=835
pms=525 sl=823 sw=390 swg=112 ta=307 te=234 th=548 tk=203 tzl=104 uz=428 xh=142 yi=848
"""
_TATOEBA: dict[str, int] = {lang: int(lines) for lang, lines in (pair.split("=") for pair in _SHORTER.split())}


def other_lines(counts: Mapping[str, int]) -> dict[str, str]:
    """{language: how its number of lines differs from LASER's, in words}, of languages of Tatoeba."""
    official = {lang: _TATOEBA.get(lang, _LINES) for lang in counts}
    return {
        lang: f"{count:,} lines, officially {official[lang]:,}"
        for lang, count in counts.items()
        if count != official[lang]
    }


def in_short(told: Mapping[str, str]) -> str:
    """The first of what differs, and how much more does."""
    part, first = next(iter(told.items()))
    return f"{part}: {first}" + (f", and {len(told) - 1} more" if len(told) > 1 else "")


def other_questions(benchmark: str, split: str, counts: Mapping[str, int]) -> dict[str, str]:
    """{language: how its number of questions differs, in words} of a split whose official numbers are known."""
    official = _OFFICIAL.get((benchmark, split))
    if official is None:
        return {}
    return {
        lang: f"{count:,} questions, officially {official.get(lang, 0):,}"
        for lang, count in counts.items()
        if count != official.get(lang, 0)
    }
