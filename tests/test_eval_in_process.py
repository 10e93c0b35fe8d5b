"""Evaluation in this process finds what the jobs find, and says when an encoder has collapsed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import SmallRun
from safetensors.numpy import load_file, save_file
from without_ray import embedding_here

from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.corpus import Corpus
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import CollapseError
from eval.context import ContextConfig
from eval.evaluate import EvaluateConfig, evaluate
from eval.in_process import corpus_sentences, evaluate_in_process

EXACT = EmbedConfig(precision="fp32", dtype="float32")
FEW = CalibrationConfig(minimum_rows=10)
CONFIGS = (EXACT, FEW, EvaluateConfig(embed=EXACT, calibration=FEW, context=ContextConfig(sentences=20)))


def test_the_scores_are_those_of_the_jobs(small_run: SmallRun, tmp_path: Path) -> None:
    from ccp_ray.calibration_job import calibrate
    from ccp_ray.embed import embed

    data = {"translations": small_run.documents, "context": small_run.corpus}
    with embedding_here():
        embedded = embed(small_run.encoder, small_run.corpus, str(tmp_path / "embeddings"), EXACT)
        calibration = calibrate(embedded.uri, str(tmp_path / "calibration"), FEW)
        by_jobs = evaluate(
            small_run.encoder, list(data), data, str(tmp_path / "evaluation"), calibration.uri, config=CONFIGS[2]
        )
    expected = json.loads(by_jobs.read("results.json"))["benchmarks"]
    found = evaluate_in_process(small_run.encoder, small_run.corpus, data, CONFIGS)
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        for variant, score in scores["variants"].items():
            assert found[name]["variants"][variant]["macro"] == pytest.approx(score["macro"], abs=0.02)
    own = (scores["translations"]["own"]["variants"]["rotate"]["macro"] for scores in (found, expected))
    assert next(own) == pytest.approx(next(own), abs=0.02)


def test_the_sentences_are_those_that_the_job_takes(small_run: SmallRun) -> None:
    corpus, embeddings = Corpus.open(small_run.corpus), Embeddings.open(small_run.embeddings)
    taken = corpus_sentences(corpus, EmbedConfig())
    rows = [row for _, table in embeddings for row in table.select(["lang", "text"]).to_pylist()]
    assert taken == {lang: [row["text"] for row in rows if row["lang"] == lang] for lang in corpus.languages}
    few = corpus_sentences(corpus, EmbedConfig(split="train", limit=7))
    train = corpus_sentences(corpus, EmbedConfig(split="train"))
    assert few == {lang: texts[:7] for lang, texts in train.items()}


def test_an_encoder_that_collapsed_is_named(small_run: SmallRun, tmp_path: Path) -> None:
    broken = tmp_path / "encoder"
    shutil.copytree(small_run.encoder, broken, ignore=shutil.ignore_patterns("artifact.json", "_*"))
    weights = load_file(broken / "model.safetensors")
    save_file({name: 0 * value for name, value in weights.items()}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(CollapseError, match="the encoder has collapsed"):
        evaluate_in_process(str(broken), small_run.corpus, {"context": small_run.corpus}, CONFIGS)
