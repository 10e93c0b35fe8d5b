"""How many questions the official files have, by language: files of the same names may hold others.

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
