"""XQuAD-R: average precision against scikit-learn's, every pool against it by hand, the real files, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from real_data import part
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import normalize
from trigrams import trigram_lookup

from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.errors import DataError, UsageError
from eval.average_precision import answers_from, average_precision, counts_from
from eval.evaluate import score_benchmark
from eval.protocol import Lookup, Text, Vectors, text_of
from eval.xquad_r import XquadR, XquadRConfig, load_xquad_r
from eval.xquad_r_files import CANDIDATES, Language

SENTENCES = ("Alpha one.", "Beta two.", "Gamma three.", "Beta two.")


def paragraph(lang: str, number: int, sentences: tuple[str, ...] = SENTENCES) -> dict[str, Any]:
    """Two questions; the second's answer is in a sentence that the paragraph has twice."""
    context, breaks = "", []
    for sentence in sentences:
        breaks.append([len(context), len(context) + len(sentence) + len(f"{lang}{number} ")])
        context += f"{lang}{number} {sentence} "
    spans = {"a": context.index("one"), "b": context.index("two")}
    asked: list[dict[str, Any]] = []
    for name, at in spans.items():
        answers = [{"answer_start": at, "text": "x"}]
        asked.append({"id": f"q{number}{name}", "question": f"{lang} {name}{number}?", "answers": answers})
    return {"context": context, "sentence_breaks": breaks, "sentences": [], "qas": asked}


def write(folder: Path, langs: tuple[str, ...] = ("de", "en", "zh"), paragraphs: int = 3) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for lang in langs:
        articles = [{"title": "t", "paragraphs": [paragraph(lang, number)]} for number in range(paragraphs)]
        (folder / f"{lang}.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    return str(folder)


def change(folder: str, lang: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    file = Path(folder) / f"{lang}.json"
    content = json.loads(file.read_text())
    edit(content["data"][0]["paragraphs"][0])
    file.write_text(json.dumps(content))


def random_lookup(seed: int = 0, values: int | None = None) -> Lookup:
    """Vectors that depend on id and seed; with `values` small whole numbers, so that many scores tie."""

    def vector(id: str) -> NDArray[np.float32]:
        rng = np.random.default_rng([seed, *id.encode()])
        numbers = rng.integers(-values, values + 1, 3) if values else rng.standard_normal(8)
        return numbers.astype(np.float32)

    return lambda ids, _: np.array([vector(id) for id in ids])


def expected(languages: Mapping[str, Language], lookup: Lookup, asked: str, id: str) -> dict[str, float]:
    """One question's numbers from scikit-learn alone."""
    question = lookup([languages[asked].questions[id].id], asked)[0]
    scores, right, lang = [], [], []
    for name, each in languages.items():
        vectors = lookup([text.id for text in each.candidates], name)
        scores += [float(np.float32(question @ vector)) for vector in vectors]
        right += [i in each.answers[id] for i in range(len(each.candidates))]
        lang += [name] * len(each.candidates)
    scores_, right_, lang_ = np.array(scores), np.array(right), np.array(lang)

    def over(kept: NDArray[np.bool_]) -> float:
        return float(average_precision_score(right_[kept], scores_[kept]))

    found = {"map": over(lang_ == lang_), "map_mono": over(lang_ == asked), "map_cross": over(lang_ != asked)}
    return found | {f"answer in {name}": over(~right_ | (lang_ == name)) for name in languages}


@given(st.data(), st.integers(1, 8), st.integers(1, 30))
def test_average_precision_equals_scikit_learn_with_ties(data: st.DataObject, rows: int, columns: int) -> None:
    scores = data.draw(arrays(np.float32, (rows, columns), elements=st.integers(0, 4)))
    right = [data.draw(st.sets(st.integers(0, columns - 1), min_size=1)) for _ in range(rows)]
    width = max(map(len, right))
    index = np.array([sorted(each) + [0] * (width - len(each)) for each in right])
    counted = np.array([[i < len(each) for i in range(width)] for each in right])
    values = np.take_along_axis(scores, index, axis=1)
    found = average_precision(counts_from(scores, values), answers_from(values, counted), counted)
    for row, each in enumerate(right):
        labels = np.isin(np.arange(columns), list(each))
        assert found[row] == pytest.approx(average_precision_score(labels, scores[row]), abs=1e-12)


def test_a_cutoff_is_xtreme_rs() -> None:
    """Without ties: AP at k of the ranking, divided by the smaller of k and the number of answers."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((40, 60))
    index = np.array([rng.choice(60, 11, replace=False) for _ in range(40)])
    values, every = np.take_along_axis(scores, index, axis=1), np.ones(index.shape, bool)
    found = average_precision(counts_from(scores, values), answers_from(values, every), every, 5)
    for row in range(40):
        hits, total = 0, 0.0
        for place, candidate in enumerate(np.argsort(-scores[row])[:5], 1):
            if candidate in index[row]:
                hits += 1
                total += hits / place
        assert found[row] == pytest.approx(total / 5)


@pytest.mark.parametrize(("values", "seed"), [(None, 0), (2, 1), (1, 2)])
def test_every_pool_equals_scikit_learn(tmp_path: Path, values: int | None, seed: int) -> None:
    benchmark = load_xquad_r(write(tmp_path))
    lookup = random_lookup(seed, values)
    score = benchmark.score(lookup)
    for lang in benchmark.languages:
        each = [expected(benchmark.languages, lookup, lang, id) for id in benchmark.ids]
        means = {name: np.mean([found[name] for found in each]) for name in each[0]}
        for name in ("map", "map_mono", "map_cross"):
            assert score["languages"][lang][name] == pytest.approx(means[name], abs=1e-9)
        for other in benchmark.languages:
            assert score["answers"][lang][other]["map"] == pytest.approx(means[f"answer in {other}"], abs=1e-9)
    for name, macro in score["macro"].items():
        assert macro == pytest.approx(np.mean([found[name] for found in score["languages"].values()]))


def test_the_top_and_the_ranks_by_language(tmp_path: Path) -> None:
    """A pool of 3 x 12: questions find the sentences of their own language, then German ones."""
    benchmark = load_xquad_r(write(tmp_path))
    axes = {"de": 0, "en": 1, "zh": 2}

    def lookup(ids: Any, lang: str) -> NDArray[np.float32]:
        out = np.zeros((len(ids), 4), dtype=np.float32)
        out[:, axes[lang]] = 1
        out[:, 0] += 0.5
        return normalize(out)

    score = benchmark.score(lookup)
    assert score["top"]["en"] == pytest.approx({"de": 0, "en": 1, "zh": 0})
    assert score["languages"]["zh"]["same_language@10"] == pytest.approx(1)
    assert score["answers"]["en"]["en"]["rank"] == 12  # all of a language tie, so the last place counts
    assert score["answers"]["en"]["de"]["rank"] == 24
    assert score["answers"]["en"]["zh"]["rank"] == 36


def test_ties_at_the_last_place_are_shared(tmp_path: Path) -> None:
    score = load_xquad_r(write(tmp_path)).score(lambda ids, _: np.ones((len(ids), 2), dtype=np.float32))
    assert score["top"]["de"] == pytest.approx(dict.fromkeys(("de", "en", "zh"), 1 / 3))


@given(st.integers(0, 50), st.sampled_from([None, 1, 2]))
def test_the_order_of_candidates_changes_nothing(seed: int, values: int | None) -> None:
    langs = ("de", "en", "zh")
    languages = {lang: Language({}, [], {}) for lang in langs}
    rng = np.random.default_rng(seed)
    moved = {}
    for lang, each in languages.items():
        each.candidates.extend(text_of(lang, f"sentence {i}") for i in range(9))
        order = rng.permutation(9)
        for id in ("a", "b", "c"):
            each.questions[id] = text_of(lang, f"question {id}")
            each.answers[id] = sorted(rng.choice(9, 2, replace=False).tolist())
        answers = {id: sorted(int(np.flatnonzero(order == i)[0]) for i in held) for id, held in each.answers.items()}
        moved[lang] = Language(each.questions, [each.candidates[i] for i in order], answers)
    lookup = random_lookup(seed, values)
    first, second = XquadR(languages).score(lookup), XquadR(moved).score(lookup)
    assert _flat(first) == pytest.approx(_flat(second), abs=1e-9)


def _flat(score: Any, prefix: str = "") -> dict[str, float]:
    if not isinstance(score, dict):
        return {prefix: score}
    return {name: value for key, part in score.items() for name, value in _flat(part, f"{prefix}/{key}").items()}


def test_sentences_answers_and_copies_are_lareqas(tmp_path: Path) -> None:
    benchmark = load_xquad_r(write(tmp_path, ("de", "en")))
    german = benchmark.languages["de"]
    assert len(german.candidates) == 3 * 4
    assert german.answers["q0a"] == [0]
    assert german.answers["q1b"] == [5, 7]  # of a paragraph's equal sentences each is an answer
    assert [german.candidates[i].text for i in german.answers["q1b"]] == ["de1 Beta two.", "de1 Beta two."]
    texts = benchmark.texts()
    assert len({text.id for text in texts}) == len(texts) == 2 * (6 + 3 * 3)
    assert {text.lang for text in texts} == {"de", "en"}


def test_questions_and_sentences_have_prefixes_of_their_own(tmp_path: Path) -> None:
    data = write(tmp_path, ("de", "en"))
    config = XquadRConfig(question_prefix="query: ", sentence_prefix="passage: ")
    prefixed, plain = load_xquad_r(data, config), load_xquad_r(data)
    kinds = {text.text: "query: " if text.text.endswith("?") else "passage: " for text in plain.texts()}
    assert [text.text for text in prefixed.texts()] == [kinds[text.text] + text.text for text in plain.texts()]
    assert prefixed.key() != plain.key()


def test_one_language_alone_has_no_cross_lingual_pool(tmp_path: Path) -> None:
    score = load_xquad_r(write(tmp_path), XquadRConfig(languages=["en"])).score(random_lookup())
    assert set(score["macro"]) == {"map", "map@20", "map_mono", "same_language@10"}
    assert score["macro"]["map"] == pytest.approx(score["macro"]["map_mono"])


def test_missing_languages_are_named_and_the_rest_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "xquad_r")
    told = load_xquad_r(str(tmp_path)).describe()
    assert told["missing"] == ["ar", "el", "es", "hi", "ru", "th", "tr", "vi"]
    assert told["complete"] is False
    assert told["languages"]["de"] == {"questions": 6, "candidates": 12}
    assert "6 questions, 12 candidates; published: 1190, 1276" in told["unofficial"]["de"]
    printed = capsys.readouterr().err
    assert f"xquad_r: 8 of 11 languages have no file in {data}: ar, el" in printed
    assert "de.json is not the published file: 6 questions" in printed
    assert load_xquad_r(data, XquadRConfig(languages=["de", "ar"])).describe()["missing"] == ["ar"]
    with pytest.raises(UsageError, match=r"none of ar\.json is here; found de\.json, en\.json, zh\.json"):
        load_xquad_r(data, XquadRConfig(languages=["ar"]))
    with pytest.raises(UsageError, match=r"'fr' is no language of XQuAD-R; there is ar, de"):
        load_xquad_r(data, XquadRConfig(languages=["fr"]))
    with pytest.raises(UsageError, match=r"no files \*ar\.json here or in xquad_r/"):
        load_xquad_r(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p.pop("sentence_breaks"), r"paragraphs\.0\.sentence_breaks: field required; .*XQuAD has none"),
        (lambda p: p.update(sentence_breaks=[]), r"sentence_breaks: list should have at least 1 item"),
        (lambda p: p.update(sentence_breaks=[[0, 5]]), "the answer to question 'q0a' starts in no sentence"),
        (lambda p: p["sentence_breaks"].append([900, 905]), "is empty; check its breaks"),
        (lambda p: p["qas"][0]["answers"].append({"answer_start": 1, "text": "x"}), "at most 1 item"),
        (lambda p: p["qas"].append(p["qas"][0]), "question 'q0a' stands there twice"),
        (lambda p: p["qas"].pop(), r"de\.json and en\.json have 5 and 6 questions, 1 of them in one alone .*'q0b'"),
        (lambda p: p["qas"][0].update(id="other"), r"have 6 and 6 questions, 2 of them in one alone .*'other'"),
    ],
)
def test_files_of_another_version_are_refused(tmp_path: Path, edit: Any, message: str) -> None:
    data = write(tmp_path, ("de", "en"))
    change(data, "de", edit)
    with pytest.raises(DataError, match=message):
        load_xquad_r(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "JSON: invalid json"), (b'{"data": []}', "holds no question"), (b"[1]", "JSON: input should be an object")],
)
def test_files_without_questions_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    data = write(tmp_path, ("de", "en"))
    Path(data, "en.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"en\.json: {message}"):
        load_xquad_r(data)


def test_the_key_knows_answers_and_pool(tmp_path: Path) -> None:
    first, same = (load_xquad_r(write(tmp_path / name)) for name in "ab")
    change(str(tmp_path / "b"), "de", lambda p: p["qas"][0]["answers"][0].update(answer_start=20))
    other = load_xquad_r(str(tmp_path / "b"))
    assert first.key() == same.key() != other.key()


def test_real_files_have_the_published_counts(data_folder: Path) -> None:
    benchmark = load_xquad_r(part(data_folder, "xquad_r"))
    told = benchmark.describe()
    counts = {lang: {"questions": 1190, "candidates": count} for lang, count in CANDIDATES.items()}
    assert told == {"languages": counts, "complete": True, "missing": [], "unofficial": {}}
    assert sum(CANDIDATES.values()) == 13_014
    assert all(len(each.answers[id]) >= 1 for each in benchmark.languages.values() for id in benchmark.ids)
    with pytest.raises(UsageError, match=r"none of .* is here; found xquad\.ar\.json"):  # XQuAD's own files
        load_xquad_r(f"{part(data_folder, 'xquad')}/xquad")


def test_real_files_show_the_bias_of_trigrams(data_folder: Path) -> None:
    """Trigrams find an answer in the question's own language, and little else."""
    benchmark = load_xquad_r(part(data_folder, "xquad_r"), XquadRConfig(languages=["de", "en", "ru"]))
    score = benchmark.score(trigram_lookup(benchmark))
    for lang, found in score["languages"].items():
        assert 0.5 < found["map_mono"] < 0.85, lang
        assert found["map"] < found["map_mono"]
        assert found["same_language@10"] > 0.6
        assert score["answers"][lang][lang]["map"] > max(
            score["answers"][lang][other]["map"] for other in benchmark.languages if other != lang
        )
    assert score["answers"]["de"]["en"]["map"] > 4 * score["answers"]["ru"]["en"]["map"]


def test_calibration_takes_texts_by_their_language(tmp_path: Path) -> None:
    """What all texts of a language share hides the answers of the others; without its mean they are found."""
    benchmark = load_xquad_r(write(tmp_path, paragraphs=40))
    texts: dict[str, list[Text]] = {}
    for text in benchmark.texts():
        texts.setdefault(text.lang, []).append(text)
    meanings = {id: number for number, id in enumerate(benchmark.ids)}
    held: dict[str, int] = {}
    for each in benchmark.languages.values():
        for id in benchmark.ids:
            held[each.questions[id].id] = meanings[id]
            held |= {each.candidates[i].id: meanings[id] for i in each.answers[id]}

    def vector(text: Text) -> NDArray[np.float32]:
        seed = [held[text.id]] if text.id in held else [9, *text.id.encode()]
        meaning = np.random.default_rng(seed).standard_normal(16)
        return (meaning + 3 * np.random.default_rng([*text.lang.encode()]).standard_normal(16)).astype(np.float32)

    ids = {lang: [text.id for text in own] for lang, own in texts.items()}
    vectors = Vectors(ids, {lang: np.array([vector(text) for text in own]) for lang, own in texts.items()})
    result = score_benchmark(benchmark, vectors, None, CalibrationConfig(rotate=False))
    raw, shift = (result["variants"][name] for name in ("raw", "shift"))
    assert raw["macro"]["map"] < 0.6 < 0.9 < shift["macro"]["map"]
    assert raw["macro"]["map_mono"] > 0.9
    assert raw["macro"]["same_language@10"] > 0.9 > shift["macro"]["same_language@10"]
