"""The generated family's translations: files LANG.txt whose line i means the same in every language; all pairs."""

from __future__ import annotations

from itertools import combinations

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from eval.bitext import Bitext, Pair, folder_with, read_lines, same_length


class TranslationsConfig(StrictModel):
    """Which languages; None: every file."""

    languages: list[str] | None = None


def load_translations(data: str, config: TranslationsConfig | None = None) -> Bitext:
    """Read LANG.txt files in `data` or `data/translations` (for example a documents artifact).

    Raises UsageError for a chosen language without a file, DataError for files of different length.
    """
    config = config or TranslationsConfig()
    store, keys = folder_with(data, "translations", (".txt",))
    known = sorted(key.removesuffix(".txt") for key in keys)
    chosen = sorted(set(config.languages)) if config.languages is not None else known
    missing = [lang for lang in chosen if lang not in known]
    if missing:
        raise UsageError(f"{store.uri(f'{missing[0]}.txt')}: no such file; there is {', '.join(known)}")
    if len(chosen) < 2:
        raise DataError(f"{store.root}: translations need two languages and more, found {', '.join(chosen) or 'none'}")
    sides = {lang: read_lines(store, f"{lang}.txt", lang) for lang in chosen}
    for lang in chosen[1:]:
        same_length(store.root, sides[chosen[0]], sides[lang], (f"{chosen[0]}.txt", f"{lang}.txt"))
    return Bitext("translations", [Pair(a, b, sides[a], sides[b]) for a, b in combinations(chosen, 2)])
