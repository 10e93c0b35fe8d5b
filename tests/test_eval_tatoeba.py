"""Tatoeba's scores against ten lines of NumPy; its averages; pairs without English against a dict; the real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.preprocessing import normalize
from trigrams import trigram_lookup

from ccp_ray.config import build_config
from ccp_ray.errors import DataError, UsageError
from eval.bitext import Bitext, Pair
from eval.margin import margin_nearest
from eval.metrics import neighbours
from eval.protocol import Lookup, text_of
from eval.tatoeba import AVERAGES, CODES, TatoebaConfig, load_tatoeba

small = st.integers(-3, 3)  # products are exact in float32, so ties are true ties


def oracle(x: NDArray[Any], y: NDArray[Any], k: int = 4) -> tuple[float, float]:
    """Accuracy of x -> y by cosine and by LASER's ratio margin, the slow way."""
    cos = x @ y.T
    near = np.argsort(-cos, axis=1, kind="stable")[:, :k]
    around_x, around_y = (np.sort(c, axis=1)[:, -k:].mean(axis=1) for c in (cos, cos.T))
    right = 0
    for i in range(len(x)):
        margins = [cos[i, j] / ((around_x[i] + around_y[j]) / 2) for j in near[i]]
        right += near[i][np.argmax(margins)] == i
    return float(np.mean(cos.argmax(axis=1) == np.arange(len(x)))), right / len(x)


def random_lookup(seed: int = 0, width: int = 24) -> Lookup:
    """Unit vectors that depend on the text alone."""

    def vector(id: str) -> NDArray[np.float32]:
        return np.random.default_rng([seed, *id.encode()]).standard_normal(width).astype(np.float32)

    return lambda ids, _: normalize(np.array([vector(id) for id in ids]))


def near_pairs(lines: int, width: int, noise: float, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((lines, width)) + rng.standard_normal(width)
    second = first + noise * rng.standard_normal((lines, width))
    return normalize(first).astype(np.float32), normalize(second).astype(np.float32)


def scored(first: NDArray[np.float32], second: NDArray[np.float32], k: int = 4) -> dict[str, Any]:
    """A bitext's score of these vectors."""
    sides = [[text_of(lang, f"{lang} {i}") for i in range(len(first))] for lang in ("de", "en")]
    texts = [text for side in sides for text in side]
    rows = {text.id: row for text, row in zip(texts, [*first, *second], strict=True)}
    bitext = Bitext("x", [Pair("de", "en", *sides)], neighbours=k)
    return bitext.score(lambda ids, _: np.array([rows[id] for id in ids]))


@pytest.mark.parametrize(("lines", "noise", "k"), [(1200, 1.2, 4), (300, 1.0, 2), (60, 0.8, 8), (3, 0.5, 4)])
def test_cosine_and_margin_equal_the_oracle(lines: int, noise: float, k: int) -> None:
    first, second = near_pairs(lines, 32, noise, seed=lines)
    score = scored(first, second, k)
    forward, backward = oracle(first, second, k), oracle(second, first, k)
    for found, place in ((score, 0), (score["margin"], 1)):
        expected = {"forward": forward[place], "backward": backward[place]}
        expected["mean"] = (expected["forward"] + expected["backward"]) / 2
        assert found["pairs"]["de-en"] == pytest.approx(expected)
        assert found["macro"] == pytest.approx(expected)


def test_margin_takes_from_hubs() -> None:
    """A sentence that lies in the middle of all wins by cosine; nothing of it by margin."""
    first, second = near_pairs(400, 32, 0.9, seed=1)
    second[0] = normalize(first.mean(axis=0, keepdims=True))[0]
    score = scored(first, second)
    assert score["margin"]["macro"]["forward"] > score["macro"]["forward"] + 0.03


@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_neighbours_are_the_first_of_a_stable_sort(data: st.DataObject, rows: int, columns: int, k: int) -> None:
    queries = data.draw(arrays(np.float32, (rows, 2), elements=small))
    candidates = data.draw(arrays(np.float32, (columns, 2), elements=small))
    similar = queries @ candidates.T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    found = neighbours(queries, candidates, k)
    np.testing.assert_array_equal(found.index_NK, order)
    np.testing.assert_array_equal(found.similar_NK, np.take_along_axis(similar, order, axis=1))


@given(st.integers(2, 60), st.integers(0, 99))
def test_the_order_of_lines_changes_nothing(lines: int, seed: int) -> None:
    first, second = near_pairs(lines, 8, 0.9, seed)
    order = np.random.default_rng(seed).permutation(lines)
    assert scored(first[order], second[order]) == scored(first, second)
    candidates = np.random.default_rng(seed + 1).permutation(lines)  # of one side alone: the same sentences are found
    ways = neighbours(first, second, 4), neighbours(second, first, 4)
    moved = neighbours(first, second[candidates], 4), neighbours(second[candidates], first, 4)
    np.testing.assert_array_equal(candidates[margin_nearest(*moved)], margin_nearest(*ways))


def test_a_neighbourhood_of_zero_has_no_margin() -> None:
    first = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert np.isfinite(scored(first, np.zeros_like(first))["margin"]["macro"]["mean"])


def test_the_lists_of_the_averages() -> None:
    assert {name: len(languages) for name, languages in AVERAGES.items()} == {"14": 14, "36": 36, "112": 112}
    assert AVERAGES["14"] < AVERAGES["36"] < AVERAGES["112"]


def write_files(folder: Path, **sides: tuple[list[str], list[str]]) -> str:
    for code, (own, english) in sides.items():
        (folder / f"tatoeba.{code}-eng.{code}").write_text("".join(f"{line}\n" for line in own))
        (folder / f"tatoeba.{code}-eng.eng").write_text("".join(f"{line}\n" for line in english))
    return str(folder)


def numbered(code: str, numbers: list[int]) -> tuple[list[str], list[str]]:
    return [f"{code} {n}" for n in numbers], [f"english {n}" for n in numbers]


def test_averages_are_over_the_languages_that_are_there(tmp_path: Path) -> None:
    codes = ("deu", "fra", "nld", "ces")
    data = write_files(tmp_path, **{code: numbered(code, list(range(30))) for code in codes})
    benchmark = load_tatoeba(data, TatoebaConfig(neighbours=2))
    score, told = benchmark.score(random_lookup()), benchmark.describe()
    for found in (score, score["margin"]):
        for name, langs in (("14", ["de", "fr"]), ("36", ["de", "fr", "nl"]), ("112", ["de", "fr", "nl", "cs"])):
            for way in ("forward", "backward", "mean"):
                expected = np.mean([found["pairs"][f"{lang}-en"][way] for lang in langs])
                assert found["averages"][name][way] == pytest.approx(expected)
    assert told["averages"]["14"]["languages"] == 2
    assert not any(average["complete"] for average in told["averages"].values())
    assert {"ar", "tr"} <= set(told["averages"]["14"]["missing"]) == AVERAGES["14"] - {"de", "fr"}
    assert score.keys() == {"macro", "pairs", "averages", "margin"}
    plain = load_tatoeba(data, TatoebaConfig(margin=False)).score(random_lookup())
    assert plain == {name: score[name] for name in ("macro", "pairs", "averages")}


def test_an_average_with_all_languages_is_complete(tmp_path: Path) -> None:
    codes = [code for code, lang in CODES.items() if lang in AVERAGES["14"]]
    data = write_files(tmp_path, **{code: numbered(code, [1, 2]) for code in codes})
    told = load_tatoeba(data, TatoebaConfig(languages=sorted(AVERAGES["14"]))).describe()
    assert told["averages"]["14"] == {"languages": 14, "complete": True, "missing": []}
    assert told["averages"]["36"]["complete"] is False
    assert told["missing"] == []


@given(st.lists(st.integers(0, 15), min_size=1, max_size=30), st.lists(st.integers(0, 15), min_size=1, max_size=30))
def test_pairs_without_english_equal_a_dict(
    tmp_path_factory: pytest.TempPathFactory, first: list[int], second: list[int]
) -> None:
    """English sides may stand twice: the first line counts."""
    german, french = {}, {}
    for found, code, numbers in ((german, "deu", first), (french, "fra", second)):
        for line, number in enumerate(numbers):
            found.setdefault(f"english {number}", f"{code} line {line}")
    data = write_files(
        tmp_path_factory.mktemp("join"),
        deu=([f"deu line {i}" for i in range(len(first))], [f"english {n}" for n in first]),
        fra=([f"fra line {i}" for i in range(len(second))], [f"english {n}" for n in second]),
    )
    expected = [(german[english], french[english]) for english in german if english in french]
    config = TatoebaConfig(pairs=[["de", "fra"]], minimum=1)
    if not expected:
        with pytest.raises(DataError, match=r"no pair of tatoeba\.pairs has 1 English sentences in common"):
            load_tatoeba(data, config)
        return
    benchmark = load_tatoeba(data, config)
    assert benchmark.joined is not None
    pair = benchmark.joined.pairs[0]
    assert [(a.text, b.text) for a, b in zip(pair.first_texts, pair.second_texts, strict=True)] == expected
    assert benchmark.describe()["joined"] == {"pairs": {"de-fr": len(expected)}, "short": {}}


def test_joined_pairs_are_scored_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_files(
        tmp_path,
        deu=numbered("deu", list(range(30))),
        fra=numbered("fra", list(range(10, 40))),
        ita=numbered("ita", list(range(25, 55))),
    )
    alone = load_tatoeba(data).score(random_lookup())
    every = load_tatoeba(data, TatoebaConfig(pairs="all", minimum=6))
    score = every.score(random_lookup())
    assert every.describe()["joined"] == {"pairs": {"de-fr": 20, "fr-it": 15}, "short": {"de-it": 5}}
    assert set(score["joined"]["pairs"]) == {"de-fr", "fr-it"}
    german, french = (
        random_lookup()([text_of(lang, f"{code} {n}").id for n in range(10, 30)], lang)
        for lang, code in (("de", "deu"), ("fr", "fra"))
    )
    cosine, margin = oracle(german, french)
    assert score["joined"]["pairs"]["de-fr"]["forward"] == pytest.approx(cosine)
    assert score["margin"]["joined"]["pairs"]["de-fr"]["forward"] == pytest.approx(margin)
    assert {name: score[name] for name in ("macro", "pairs", "averages")} == {
        name: alone[name] for name in ("macro", "pairs", "averages")
    }
    assert every.key() != load_tatoeba(data).key()
    assert every.texts() == load_tatoeba(data).texts()
    capsys.readouterr()
    some = load_tatoeba(data, TatoebaConfig(pairs=[["it", "deu"], ["fr", "deu"], ["pt", "de"]], minimum=6))
    assert some.describe()["joined"]["pairs"] == {"fr-de": 20}
    assert "joined pairs of fewer than 6 lines are left out: it-de (5), pt-de (0)" in capsys.readouterr().err


def test_files_of_another_version_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {"deu": 1001, "fra": 1000, "ita": 999, "tel": 234, "qqq": 3}
    data = write_files(tmp_path, **{code: numbered(code, list(range(count))) for code, count in lines.items()})
    told = {"de-en": "1,001 lines, officially 1,000", "it-en": "999 lines, officially 1,000"}
    assert load_tatoeba(data).describe()["unofficial"] == told
    assert "tatoeba: not LASER's files: de-en: 1,001 lines, officially 1,000, and 1 more;" in capsys.readouterr().err


def test_wrong_pairs_are_explained(tmp_path: Path) -> None:
    data = write_files(tmp_path, deu=numbered("deu", [1, 2]), fra=numbered("fra", [2, 3]))
    for pairs in ([["de"]], [["de", "de"]], [["de", "fr", "it"]], []):
        with pytest.raises(UsageError, match=r"pairs: .*expected pairs of two languages"):
            build_config(TatoebaConfig, {"pairs": pairs})
    for config in ({"languages": ["de"], "pairs": [["de", "fr"]]}, {"pairs": [["de", "frr"]]}):
        with pytest.raises(UsageError, match=r"'frr?' is not among the languages read \(de"):
            load_tatoeba(data, build_config(TatoebaConfig, config))
    with pytest.raises(DataError, match=r"has 100 English sentences in common \(de-fr: 1\); lower tatoeba\.minimum"):
        load_tatoeba(data, TatoebaConfig(pairs=[["de", "fr"]]))


def test_real_files_have_the_known_counts(data_folder: Path) -> None:
    benchmark = load_tatoeba(str(data_folder), TatoebaConfig(pairs="all"))
    told = benchmark.describe()
    assert sum(told["pairs"].values()) == 76_877
    assert len(benchmark.texts()) == 76_877 + 60_519  # sentences of 100 languages, and English ones once
    there = {name: 14 - 1 if name == "14" else 36 - 7 if name == "36" else 100 for name in AVERAGES}
    assert {name: average["languages"] for name, average in told["averages"].items()} == there
    assert told["unofficial"] == {}
    assert told["averages"]["36"]["missing"] == ["af", "he", "hu", "id", "ko", "pt", "tr"]
    joined = told["joined"]["pairs"]
    assert len(joined) == 10
    assert (joined["de-ja"], joined["de-fr"], joined["dsb-hsb"]) == (487, 228, 452)


def test_real_files_score_what_trigrams_can(data_folder: Path) -> None:
    """The floors of hashed trigrams lie near those of tf-idf; margin is above cosine; sisters are far up."""
    config = TatoebaConfig(languages=["fr", "de", "nl", "ru", "dsb", "hsb"], pairs=[["dsb", "hsb"], ["de", "fr"]])
    benchmark = load_tatoeba(str(data_folder), config)
    score = benchmark.score(trigram_lookup(benchmark))
    for lang, floor in (("fr", 0.21), ("de", 0.21), ("nl", 0.28)):
        assert score["pairs"][f"{lang}-en"]["forward"] == pytest.approx(floor, abs=0.05)
    assert score["pairs"]["ru-en"]["mean"] < 0.02
    assert score["margin"]["pairs"]["nl-en"]["mean"] > score["pairs"]["nl-en"]["mean"]
    assert score["joined"]["pairs"]["dsb-hsb"]["mean"] > 0.5 > score["joined"]["pairs"]["de-fr"]["mean"] > 0.1
