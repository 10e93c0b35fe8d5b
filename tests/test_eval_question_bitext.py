"""Question translation retrieval: both layouts, names, the real questions, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import part
from trigrams import trigram_lookup

from ccp_ray.errors import DataError, UsageError
from eval.question_bitext import QuestionBitextConfig, load_question_bitext


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


def test_folders_of_pairs(tmp_path: Path) -> None:
    files = {f"{pair}/{lang}.txt": f"{lang} 1\n{lang} 2\n" for pair in ("ar-en", "de-fr") for lang in pair.split("-")}
    data = write(tmp_path / "question_bitext", {**files, "ar-en/notes.txt": "x", "README.md": "x"})
    for place in (data, str(tmp_path)):
        told = load_question_bitext(place).describe()
        assert told == {"pairs": {"ar-en": 2, "de-fr": 2}, "left_out": {}, "missing": []}
    for languages in (["ar"], ["ar", "en"]):
        chosen = load_question_bitext(data, QuestionBitextConfig(languages=languages))
        assert list(chosen.describe()["pairs"]) == ["ar-en"]


def test_names_with_languages(tmp_path: Path) -> None:
    files = {f"dev.{lang}": "one\ntwo\n" for lang in ("en", "de", "zh_Hant")}
    data = write(
        tmp_path, {**files, "test.de": "a\n", "test.en": "b\n", "alone.fr": "c\n", "notes.md": "", "notes.txt": ""}
    )
    pairs = load_question_bitext(data).describe()["pairs"]
    assert pairs == {"dev: de-en": 2, "test: de-en": 1, "de-zh_Hant": 2, "zh_Hant-en": 2}
    other = QuestionBitextConfig(languages=["zh_Hant", "de"])
    assert set(load_question_bitext(data, other).describe()["pairs"]) == set(pairs)


def test_scores_equal_those_by_hand(tmp_path: Path) -> None:
    data = write(tmp_path, {"q.de": "eins\nzwei\ndrei\n", "q.en": "one\ntwo\nthree\n"})
    vectors = {"eins": [1, 0], "zwei": [0, 1], "drei": [1, 0], "one": [1, 0], "two": [0, 1], "three": [0.6, 0.8]}
    benchmark = load_question_bitext(data, QuestionBitextConfig(margin=True))
    words = {text.id: text.text for text in benchmark.texts()}
    score = benchmark.score(lambda ids, _: np.array([vectors[words[id]] for id in ids], dtype=np.float32))
    assert score["pairs"]["de-en"] == {
        "forward": pytest.approx(2 / 3),
        "backward": pytest.approx(2 / 3),
        "mean": pytest.approx(2 / 3),
    }
    assert score["macro"] == score["pairs"]["de-en"]
    assert score["margin"].keys() == {"macro", "pairs"}
    assert "margin" not in load_question_bitext(data).score(lambda ids, _: np.eye(3, 2, dtype=np.float32)[: len(ids)])


def test_files_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UsageError, match=r"no XX-YY/XX\.txt and XX-YY/YY\.txt, and no NAME\.XX and NAME\.YY, here or in"
    ):
        load_question_bitext(str(tmp_path))
    data = write(tmp_path, {"ar-en/ar.txt": "a\nb\n", "ar-en/en.txt": "a\n", "ko-en/ko.txt": "c\n"})
    with pytest.raises(DataError, match=r"ar-en/ar\.txt has 2 lines, ar-en/en\.txt 1; expected line-aligned"):
        load_question_bitext(data)
    write(tmp_path, {"ar-en/en.txt": "a\nb\n"})
    told = load_question_bitext(data, QuestionBitextConfig(languages=["ar", "ko", "ja"])).describe()
    assert (told["pairs"], told["missing"]) == ({"ar-en": 2}, ["ko-en", "ja"])
    assert "question_bitext: ko-en, ja left out: files are missing" in capsys.readouterr().err
    with pytest.raises(
        UsageError, match="no pair of the languages chosen has both of its files; there is ar-en, ko-en"
    ):
        load_question_bitext(data, QuestionBitextConfig(languages=["ko"]))
    no_line = r"no line has a sentence here and in ar-en/en\.txt"
    for text, message in (("", "empty; expected one sentence a line"), (" \n\n", no_line)):
        write(tmp_path, {"ar-en/en.txt": text})
        with pytest.raises(DataError, match=message):
            load_question_bitext(data)


some_lines = st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.sampled_from(["", "x", "y", "z"]))


@given(st.lists(some_lines, min_size=1))
def test_no_line_is_lost_silently(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]) -> None:
    """Every kept text stands once; lines in are lines out and lines left out for a reason."""
    sides = {f"q.{lang}": "".join(f"{line[side]}\n" for line in lines) for side, lang in enumerate(("de", "en"))}
    data = write(tmp_path_factory.mktemp("q"), sides)
    full = [line for line in lines if all(line)]
    if not full:
        with pytest.raises(DataError, match="no line has a sentence"):
            load_question_bitext(data)
        return
    benchmark = load_question_bitext(data)
    pair, out = benchmark.pairs[0], benchmark.describe()["left_out"].get("de-en", {"empty": 0, "repeated": 0})
    kept = [(first.text, second.text) for first, second in zip(pair.first_texts, pair.second_texts, strict=True)]
    assert len(kept) + sum(out.values()) == len(lines)
    assert out["empty"] == len(lines) - len(full)
    assert all(len(set(side)) == len(kept) for side in zip(*kept, strict=True))
    assert all(any(line[i] in {k[i] for k in kept} for i in (0, 1)) for line in full)
    every = load_question_bitext(data, QuestionBitextConfig(repeated=True))
    assert [text.text for text in every.pairs[0].first_texts] == [line[0] for line in full]


def test_the_real_questions(data_folder: Path) -> None:
    """Trigrams of other scripts find what is written in Latin letters and digits, and no more."""
    data = part(data_folder, "question_bitext")
    benchmark = load_question_bitext(data)
    told = benchmark.describe()
    lines = {"ar-en": 4649, "bn-en": 4687, "ja-en": 4700, "ko-en": 4697, "te-en": 4761}
    assert {pair: count + sum(told["left_out"][pair].values()) for pair, count in told["pairs"].items()} == lines
    assert told["left_out"]["ar-en"]["empty"] == 1
    assert all(count > 0.95 * lines[pair] for pair, count in told["pairs"].items())
    chosen = load_question_bitext(data, QuestionBitextConfig(languages=["ja"]))
    score = chosen.score(trigram_lookup(chosen, width=512))
    assert 0.01 < score["pairs"]["ja-en"]["mean"] < 0.2
