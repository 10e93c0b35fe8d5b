"""Tatoeba and translations: the real files under a toy encoder, and every way that files can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from ccp_ray.errors import DataError, UsageError
from eval.protocol import Benchmark, distinct
from eval.tatoeba import CODES, TatoebaConfig, load_tatoeba
from eval.translations import TranslationsConfig, load_translations


def write(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", "-").replace("_", ".")).write_text(text, encoding="utf-8")
    return str(folder)


def trigram_scores(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Scores by pair of tf-idf over character trigrams: an encoder that has learned nothing."""
    texts = benchmark.texts()
    matrix = TfidfVectorizer(analyzer="char", ngram_range=(3, 3)).fit_transform([text.text for text in texts])
    rows = {text.id: row for row, text in enumerate(texts)}
    return benchmark.score(lambda ids, _: matrix[[rows[id] for id in ids]].toarray().astype(np.float32))["pairs"]


@pytest.mark.parametrize(("lang", "floor"), [("fr", 0.21), ("sl", 0.13), ("ru", 0.01)])
def test_trigrams_reach_the_known_floors(data_folder: Path, lang: str, floor: float) -> None:
    benchmark = load_tatoeba(str(data_folder), TatoebaConfig(languages=[lang]))
    scores = trigram_scores(benchmark)[f"{lang}-en"]
    assert scores["forward"] == pytest.approx(floor, abs=0.03)
    assert scores["mean"] == pytest.approx((scores["forward"] + scores["backward"]) / 2)


def test_real_files_load_and_are_named_as_corpora_name_languages(data_folder: Path) -> None:
    benchmark = load_tatoeba(str(data_folder / "tatoeba"))
    pairs = benchmark.describe()["pairs"]
    assert len(pairs) == 100
    assert {"fr-en", "zh-en", "fa-en", "sw-en", "lv-en", "arz-en", "ber-en"} <= set(pairs)
    assert (pairs["fr-en"], pairs["tzl-en"]) == (1000, 104)
    ids = [text.id for text in benchmark.texts()]
    assert len(ids) == len(set(ids)) < sum(2 * lines for lines in pairs.values())


def test_the_code_table_is_one_to_one() -> None:
    assert len(CODES) == len(set(CODES.values())) == 112
    assert all(len(short) == 2 or short == long for long, short in CODES.items())
    assert [CODES[code] for code in ("deu", "cmn", "zsm", "pes", "swh", "ell", "yue")] == [
        "de",
        "zh",
        "ms",
        "fa",
        "sw",
        "el",
        "yue",
    ]


def test_pairs_score_as_by_hand(tmp_path: Path) -> None:
    data = write(tmp_path, tatoeba_fra__eng_fra="un\ndeux\ntrois\n", tatoeba_fra__eng_eng="one\ntwo\nthree\n")
    benchmark = load_tatoeba(data)
    vectors = {"un": [1, 0], "deux": [0, 1], "trois": [1, 0], "one": [1, 0], "two": [0, 1], "three": [0, 1]}
    words = {text.id: text.text for text in benchmark.texts()}
    score = benchmark.score(lambda ids, _: np.array([vectors[words[id]] for id in ids], dtype=np.float32))
    # French: un finds one, deux finds two (before three), trois finds one. English: one un, two deux, three deux.
    expected = {"forward": pytest.approx(2 / 3), "backward": pytest.approx(2 / 3), "mean": pytest.approx(2 / 3)}
    assert (score["macro"], score["pairs"]) == (expected, {"fr-en": expected})


def test_languages_are_chosen_by_either_code(tmp_path: Path) -> None:
    files = {f"tatoeba_{code}__eng_{side}": "a\nb\n" for code in ("deu", "xyz") for side in (code, "eng")}
    data = write(tmp_path / "tatoeba", **files)
    assert list(load_tatoeba(data).describe()["pairs"]) == ["de-en", "xyz-en"]
    assert list(load_tatoeba(str(tmp_path)).describe()["pairs"]) == ["de-en", "xyz-en"]
    chosen = TatoebaConfig(languages=["deu", "de", "xyz"])
    assert list(load_tatoeba(data, chosen).describe()["pairs"]) == ["de-en", "xyz-en"]
    assert list(load_tatoeba(data, TatoebaConfig(languages=["en", "de"])).describe()["pairs"]) == ["de-en"]
    with pytest.raises(UsageError, match=r"'frr' is no language of Tatoeba; there is de, xyz"):
        load_tatoeba(data, TatoebaConfig(languages=["de", "frr"]))


def test_languages_without_files_are_named_and_the_rest_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"tatoeba_{code}__eng_{side}": "a\nb\n" for code in ("deu", "ita") for side in (code, "eng")}
    data = write(tmp_path, **files)
    told = load_tatoeba(data, TatoebaConfig(languages=["deu", "fr", "it"])).describe()
    assert (list(told["pairs"]), told["missing"]) == (["de-en", "it-en"], ["fr"])
    assert f"tatoeba: 1 of 3 languages have no files in {data}: fr" in capsys.readouterr().err
    Path(data, "tatoeba.deu-eng.deu").unlink()  # one side is no pair
    told = load_tatoeba(data).describe()
    assert (list(told["pairs"]), len(told["missing"])) == (["it-en"], 111)
    assert told["averages"].keys() == {"36", "112"}
    Path(data, "tatoeba.ita-eng.ita").unlink()
    with pytest.raises(UsageError, match=r"no language has both of its files, such as tatoeba\.afr-eng\.afr and"):
        load_tatoeba(data)


def test_broken_tatoeba_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no files \*-eng\.eng here or in tatoeba/"):
        load_tatoeba(str(tmp_path))
    data = write(tmp_path, tatoeba_fra__eng_fra="un\ndeux\n", tatoeba_fra__eng_eng="one\n")
    with pytest.raises(DataError, match=r"tatoeba\.fra-eng\.fra has 2 lines, tatoeba\.fra-eng\.eng 1"):
        load_tatoeba(data)
    write(tmp_path, tatoeba_fra__eng_eng="one\n\n")
    with pytest.raises(DataError, match=r"tatoeba\.fra-eng\.eng, line 2: empty"):
        load_tatoeba(data)
    write(tmp_path, tatoeba_fra__eng_eng="")
    with pytest.raises(DataError, match="empty; expected one sentence a line"):
        load_tatoeba(data)
    Path(data, "tatoeba.fra-eng.eng").write_bytes(b"caf\xe9\nx\n")
    with pytest.raises(DataError, match=r"not UTF-8 \(byte 3\)"):
        load_tatoeba(data)


def test_a_sentence_that_stands_twice_is_embedded_once(tmp_path: Path) -> None:
    files = {f"tatoeba_{code}__eng_{code}": "x\ny\n" for code in ("deu", "fra")}
    data = write(tmp_path, **files, tatoeba_deu__eng_eng="one\ntwo\n", tatoeba_fra__eng_eng="two\nthree\n")
    texts = load_tatoeba(data).texts()
    assert [(t.lang, t.text) for t in texts if t.lang == "en"] == [("en", "one"), ("en", "two"), ("en", "three")]
    assert len({text.id for text in texts}) == 7  # x and y once in each of de and fr
    assert distinct([*texts, *texts]) == texts


def test_translations_take_all_pairs(tmp_path: Path) -> None:
    data = write(tmp_path / "translations", qaa_txt="a\nb\n", qab_txt="c\nd\n", qac_txt="e\nf\n")
    assert list(load_translations(str(tmp_path)).describe()["pairs"]) == ["qaa-qab", "qaa-qac", "qab-qac"]
    two = TranslationsConfig(languages=["qac", "qaa"])
    assert list(load_translations(data, two).describe()["pairs"]) == ["qaa-qac"]
    with pytest.raises(UsageError, match=r"qad\.txt: no such file; there is qaa, qab, qac"):
        load_translations(data, TranslationsConfig(languages=["qaa", "qad"]))
    with pytest.raises(DataError, match="need two languages"):
        load_translations(data, TranslationsConfig(languages=["qaa"]))
    write(tmp_path / "translations", qab_txt="c\n")
    with pytest.raises(DataError, match=r"qaa\.txt has 2 lines, qab\.txt 1"):
        load_translations(data)


def test_the_key_knows_the_alignment(tmp_path: Path) -> None:
    first = load_translations(write(tmp_path / "1", qaa_txt="a\nb\n", qab_txt="c\nd\n"))
    same = load_translations(write(tmp_path / "2", qaa_txt="a\nb\n", qab_txt="c\nd\n"))
    other = load_translations(write(tmp_path / "3", qaa_txt="a\nb\n", qab_txt="d\nc\n"))
    assert first.key() == same.key() != other.key()
