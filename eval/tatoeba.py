"""Tatoeba as LASER ships it (Artetxe and Schwenk 2019): tatoeba.XXX-eng.{XXX,eng}, 112 languages against English.

Files are named by ISO 639-3; corpora by the two-letter code where there is one. `CODES` joins them, so that a
calibration that was fitted on a corpus finds its languages. Three-letter codes without a two-letter one stay.
"""

from __future__ import annotations

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, UsageError
from eval.bitext import Bitext, Pair, folder_with, read_lines, same_length

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

_ENGLISH = "eng"


class TatoebaConfig(StrictModel):
    """Which languages, by either code; None: every pair of files in the folder."""

    languages: list[str] | None = None


def load_tatoeba(data: str, config: TatoebaConfig | None = None) -> Bitext:
    """Read the pairs in `data` or `data/tatoeba`; named like `fr-en`, English second.

    Raises UsageError for a chosen language without its two files, DataError for sides of different length.
    """
    config = config or TatoebaConfig()
    store, keys = folder_with(data, "tatoeba", (f"-{_ENGLISH}.{_ENGLISH}",))
    known = {key.split(".")[1].removesuffix(f"-{_ENGLISH}") for key in keys if key.startswith("tatoeba.")}
    if not known:
        raise UsageError(f"{store.root}: no files named tatoeba.XXX-{_ENGLISH}.{_ENGLISH}")
    files = sorted(known) if config.languages is None else _chosen(config.languages, known, store.root)
    pairs = []
    for file in files:
        names = (f"tatoeba.{file}-{_ENGLISH}.{file}", f"tatoeba.{file}-{_ENGLISH}.{_ENGLISH}")
        lang = CODES.get(file, file)
        first, second = read_lines(store, names[0], lang), read_lines(store, names[1], "en")
        same_length(store.root, first, second, names)
        pairs.append(Pair(lang, "en", first, second))
    return Bitext("tatoeba", pairs)


def _chosen(languages: list[str], known: set[str], where: str) -> list[str]:
    """File codes of the chosen languages. Raises UsageError naming the missing file."""
    files = {CODES.get(file, file): file for file in sorted(known)}
    chosen: list[str] = []
    for lang in dict.fromkeys(languages):
        file = lang if lang in known else files.get(lang)
        if file is None:
            codes = {code: name for name, code in CODES.items()}
            name = codes.get(lang, lang)
            near = ", ".join(sorted(files))
            raise UsageError(
                f"{where}: no file tatoeba.{name}-{_ENGLISH}.{name} for language {lang!r}; there is {near}"
            )
        if file not in chosen:
            chosen.append(file)
    if not chosen:
        raise DataError("tatoeba: no language chosen; set languages, or leave it out for all")
    return chosen
