"""Tatoeba as LASER ships it (Artetxe and Schwenk 2019): tatoeba.XXX-eng.{XXX,eng}, 112 languages against English.

Files are named by ISO 639-3; corpora by the two-letter code where there is one. `CODES` joins them, so that a
calibration that was fitted on a corpus finds its languages. Three-letter codes without a two-letter one stay.

The score is a bitext's (`eval.bitext`: macro and pairs, cosine and margin), and beside `pairs`, by either scoring,

    "averages": {"14" | "36" | "112": WAYS}    means over the languages that papers average over
    "joined": {"macro": WAYS, "pairs": {"de-fr": WAYS}}    pairs without English, where asked for (`eval.english_join`)

A language without files is named, the rest run: `describe()` has `missing`, and says of each average how many languages
are in it, which are not, and whether it is complete. A language set smaller than an average's makes that one incomplete
in the same way. English sides differ between files, so accuracies of two languages compare only by encoder.

Scoring 100 pairs (76,877 lines, 384 dimensions) takes 2.3 s a variant on one core, margin included; with all 296
joined pairs of 20 lines and more 2.9 s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from ccp_ray.artifact import digest_json
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from ccp_ray.progress import say
from ccp_ray.storage import Store
from eval.bitext import Bitext, Pair, Ways, folder_with, mean_ways, read_lines, same_length
from eval.english_join import Joined, join_pairs
from eval.official_counts import in_short, other_lines
from eval.protocol import Lookup, Text

# Standard Latvian, Malay, Persian, Swahili and Mandarin stand for the whole language, as corpora have them.
_SHORT = """
afr=af amh=am ara=ar aze=az bel=be ben=bn bos=bs bre=br bul=bg cat=ca ces=cs cha=ch cmn=zh cor=kw cym=cy
dan=da deu=de ell=el epo=eo est=et eus=eu fao=fo fin=fi fra=fr fry=fy gla=gd gle=ga glg=gl heb=he hin=hi
hrv=hr hun=hu hye=hy ido=io ile=ie ina=ia ind=id isl=is ita=it jav=jv jpn=ja kat=ka kaz=kk khm=km kor=ko
kur=ku lat=la lit=lt lvs=lv mal=ml mar=mr mkd=mk mon=mn nld=nl nno=nn nob=nb oci=oc pes=fa pol=pl por=pt
ron=ro rus=ru slk=sk slv=sl spa=es sqi=sq srp=sr swe=sv swh=sw tam=ta tat=tt tel=te tgl=tl tha=th tuk=tk
tur=tr uig=ug ukr=uk urd=ur uzb=uz vie=vi xho=xh yid=yi zsm=ms
"""
_NO_SHORT = """
ang arq arz ast awa ber cbk ceb csb dsb dtp gsw hsb kab kzj lfn max mhr nds nov orv pam pms swg tzl war wuu
yue
"""
CODES: dict[str, str] = {code: code for code in _NO_SHORT.split()}
CODES.update((long, short) for long, _, short in (pair.partition("=") for pair in _SHORT.split()))
"""Tatoeba's 112 file codes -> the codes of corpora."""

_14 = "ar bg zh de el fr hi ru es sw th tr ur vi"
_36 = f"{_14} af bn et eu fi he hu id it jv ja ka kk ko ml mr nl fa pt ta te tl"
AVERAGES: dict[str, frozenset[str]] = {
    "14": frozenset(_14.split()),
    "36": frozenset(_36.split()),
    "112": frozenset(CODES.values()),
}
"""Name of an average -> the languages it is over."""

_ENGLISH = "eng"


class TatoebaConfig(StrictModel):
    """Which languages and pairs, and how they are scored."""

    languages: list[str] | None = Field(default=None, description="by either code; None: every pair of files there is")
    pairs: list[list[str]] | Literal["all"] | None = Field(
        default=None, description="without English, such as [[de, fr]]: joined on equal English sides"
    )
    minimum: int = Field(default=100, ge=1, description="lines that a joined pair must have")
    margin: bool = Field(default=True, description="score by ratio margin, too")
    neighbours: int = Field(default=4, ge=1, description="of the margin")

    @field_validator("pairs")
    @classmethod
    def _of_two_languages(cls, pairs: list[list[str]] | str | None) -> list[list[str]] | str | None:
        wrong = [pair for pair in pairs if len(set(pair)) != 2 or len(pair) != 2] if isinstance(pairs, list) else []
        if wrong or pairs == []:
            raise ValueError(f"expected pairs of two languages, for example [[de, fr]], found {(wrong or pairs)!r}")
        return pairs


class Tatoeba:
    """The benchmark."""

    name = "tatoeba"

    def __init__(self, english: Bitext, joined: Joined | None, missing: Sequence[str]) -> None:
        self.english, self.joined, self.missing = english, joined, list(missing)
        self._others = Bitext("joined", joined.pairs, english.neighbours) if joined else None

    def texts(self) -> list[Text]:
        """The texts of joined pairs are among those of their files."""
        return self.english.texts()

    def score(self, lookup: Lookup) -> dict[str, Any]:
        """The module's form; fractions."""
        score = _averaged(self.english.score(lookup))
        if self._others is not None:
            others = self._others.score(lookup)
            margin = others.pop("margin", None)
            score["joined"] = others
            if margin is not None:
                score["margin"]["joined"] = margin
        return score

    def describe(self) -> dict[str, Any]:
        """{"pairs": lines by pair, "missing", "averages": {"14": {languages, complete, missing}}, ...}."""
        told = self.english.describe() | {"missing": self.missing, "averages": self._averages()}
        told["unofficial"] = _unofficial(self.english.pairs)
        return told | ({"joined": self.joined.describe()} if self.joined else {})

    def key(self) -> str:
        keys = [self.english.key(), *([self._others.key()] if self._others else [])]
        return digest_json(keys) if len(keys) > 1 else keys[0]

    def _averages(self) -> dict[str, Any]:
        there = {pair.first for pair in self.english.pairs}
        told = {}
        for name, languages in AVERAGES.items():
            if found := there & languages:
                lacks = sorted(languages - there)
                told[name] = {"languages": len(found), "complete": not lacks, "missing": lacks}
        return told


def load_tatoeba(data: str, config: TatoebaConfig | None = None) -> Tatoeba:
    """Read the pairs in `data` or `data/tatoeba`; named like `fr-en`, English second.

    A language with a file missing is named and left out. Raises UsageError where none is left and for a code that is
    not Tatoeba's, DataError for sides of different length and joined pairs that are all too short.
    """
    config = config or TatoebaConfig()
    store, keys = folder_with(data, "tatoeba", (f"-{_ENGLISH}.{_ENGLISH}",))
    known = {key.split(".")[1].removesuffix(f"-{_ENGLISH}") for key in keys if key.startswith("tatoeba.")}
    if not known:
        raise UsageError(f"{store.root}: no files named tatoeba.XXX-{_ENGLISH}.{_ENGLISH}")
    whole = {info.key for info in store.list()} & {file for code in known for file in _names(code)}
    known = {code for code in known if whole.issuperset(_names(code))}
    wanted = _wanted(config, known, store.root)
    missing = sorted(lang for lang, code in wanted.items() if code not in known)
    codes = sorted(code for code in wanted.values() if code in known)
    if not codes:
        first = _names(min(wanted.values()))
        raise UsageError(f"{store.root}: no language has both of its files, such as {' and '.join(first)}")
    if missing:
        say(f"tatoeba: {len(missing)} of {len(wanted)} languages have no files in {store.root}: {', '.join(missing)}")
    pairs = [_read(store, code) for code in codes]
    if other := _unofficial(pairs):
        say(f"tatoeba: not LASER's files: {in_short(other)}; such scores do not compare with published ones")
    english = Bitext("tatoeba", pairs, config.neighbours if config.margin else None)
    return Tatoeba(english, _joined(pairs, config, missing, store.root), missing)


def _names(code: str) -> tuple[str, str]:
    return f"tatoeba.{code}-{_ENGLISH}.{code}", f"tatoeba.{code}-{_ENGLISH}.{_ENGLISH}"


def _read(store: Store, code: str) -> Pair:
    lang, names = CODES.get(code, code), _names(code)
    first, second = read_lines(store, names[0], lang), read_lines(store, names[1], "en")
    same_length(store.root, first, second, names)
    return Pair(lang, "en", first, second)


def _unofficial(pairs: Sequence[Pair]) -> dict[str, str]:
    """Pairs of LASER's languages that are of another version: not with as many lines as LASER took."""
    lines = {pair.first: len(pair.first_texts) for pair in pairs if pair.first in AVERAGES["112"]}
    return {f"{lang}-en": told for lang, told in other_lines(lines).items()}


def _wanted(config: TatoebaConfig, known: Collection[str], where: str) -> dict[str, str]:
    """Language -> code of its files, whether they are there or not. Raises UsageError for what is no language of it."""
    files = {short: code for code, short in CODES.items()} | {CODES.get(code, code): code for code in known}
    if config.languages is None:
        return files
    chosen = [CODES.get(lang, lang) for lang in config.languages if lang not in ("en", _ENGLISH)]
    unknown = [lang for lang in chosen if lang not in files]
    if unknown:
        near = ", ".join(sorted(CODES.get(code, code) for code in known))
        raise UsageError(f"{where}: {unknown[0]!r} is no language of Tatoeba; there is {near}")
    if not chosen:
        raise DataError("tatoeba: no language chosen; set languages, or leave it out for all")
    return {lang: files[lang] for lang in chosen}


def _joined(pairs: Sequence[Pair], config: TatoebaConfig, missing: Sequence[str], where: str) -> Joined | None:
    if config.pairs is None:
        return None
    sides = {pair.first: pair for pair in pairs}
    chosen = None if config.pairs == "all" else [[CODES.get(lang, lang) for lang in pair] for pair in config.pairs]
    foreign = [lang for pair in chosen or [] for lang in pair if lang not in sides and lang not in missing]
    if foreign:
        raise UsageError(
            f"tatoeba.pairs: {foreign[0]!r} is not among the languages read ({', '.join(sides)}); add it to "
            "tatoeba.languages (English is joined on: pairs with it are there anyway)"
        )
    joined = join_pairs(sides, chosen, config.minimum)
    if not joined.pairs:
        raise DataError(
            f"{where}: no pair of tatoeba.pairs has {config.minimum} English sentences in common "
            f"({joined.counts() or 'none at all'}); lower tatoeba.minimum or choose others"
        )
    return joined


def _averaged(score: dict[str, Any]) -> dict[str, Any]:
    """The score with averages, by margin too."""
    averages = _averages(score["pairs"])
    rest = {"margin": _averaged(score["margin"])} if "margin" in score else {}
    return score | {"averages": averages} | rest


def _averages(pairs: Mapping[str, Ways]) -> dict[str, Ways]:
    by_language = {name.removesuffix("-en"): ways for name, ways in pairs.items()}
    found = {
        name: [ways for lang, ways in by_language.items() if lang in languages] for name, languages in AVERAGES.items()
    }
    return {name: mean_ways(scores) for name, scores in found.items() if scores}
