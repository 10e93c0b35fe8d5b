"""Evaluation of a small encoder within this process: what `embed`, `calibrate` and `evaluate` find, without their jobs.

    corpus sentences ──► encode ──► calibration ─┐
    benchmark sentences ──► encode ──────────────┴──► {benchmark: scores}, as in an evaluation's results.json

For many small encoders one after the other, as an ablation has them: of the 34 to 52 s that the two embedding jobs took
for 23,200 short sentences and 2 layers x 64, 3 to 6 s were encoding, the rest their workers' start (two busy cores).
Nothing is resumed and all vectors are in memory; the numbers are those of the jobs, but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_fit import fit
from ccp_ray.corpus import Corpus
from ccp_ray.embed_config import EmbedConfig
from eval.evaluate import EvaluateConfig, load_benchmarks
from eval.protocol import Text, Vectors, distinct
from eval.scores import score_benchmark

if TYPE_CHECKING:
    from ccp_ray.encoder import Encoder

FloatArray = NDArray[np.float32]


def evaluate_in_process(
    encoder: str,
    corpus: str,
    data: Mapping[str, str],
    configs: tuple[EmbedConfig, CalibrationConfig, EvaluateConfig],
) -> dict[str, Any]:
    """Scores of an encoder by benchmark, calibrated on sentences of a corpus. `data`: where each benchmark's lies.

    Raises UsageError or DataError for data that cannot be used, CollapseError for an encoder without variance.
    """
    embedding, calibrating, evaluating = configs
    benchmarks = load_benchmarks(list(data), data, evaluating)
    sentences = corpus_sentences(Corpus.open(corpus), embedding)
    model = _load(encoder, embedding)
    calibration = fit({lang: _encode(model, texts, embedding) for lang, texts in sentences.items()}, calibrating)
    asked = distinct(text for benchmark in benchmarks.values() for text in benchmark.texts())
    vectors = _vectors(_load(encoder, evaluating.embed), asked, evaluating.embed)
    return {
        name: score_benchmark(benchmark, vectors.of(benchmark), calibration, evaluating.calibration)
        for name, benchmark in benchmarks.items()
    }


def corpus_sentences(corpus: Corpus, config: EmbedConfig) -> dict[str, list[str]]:
    """The sentences of each language that `embed` would take."""
    found: dict[str, list[str]] = {}
    for part in corpus.parts(config.split):
        texts = found.setdefault(part.lang, [])
        room = part.rows if config.limit is None else config.limit - len(texts)
        if room > 0:
            texts += corpus.read_sentences(part).column("text").slice(0, room).to_pylist()
    return found


def _load(encoder: str, config: EmbedConfig) -> Encoder:
    from ccp_ray.encoder import Encoder  # torch only where it is used
    from ccp_ray.hardware import device, resolve

    where = device(config.resources.gpu)
    precision, pooling, prompt = resolve(config.precision, where), config.pooling, config.prompt
    return Encoder.load(encoder, precision=precision, pooling=pooling, prompt=prompt, where=where).packed()


def _encode(model: Encoder, texts: Sequence[str], config: EmbedConfig) -> FloatArray:
    """Vectors [N, D] as an embeddings artifact would store them, read back."""
    rows, _ = model.reader.narrowed(config.max_tokens).tokenize(texts)
    return model.encode_tokens(rows, config.token_budget).astype(config.dtype).astype(np.float32)


def _vectors(model: Encoder, texts: Sequence[Text], config: EmbedConfig) -> Vectors:
    ids: dict[str, list[str]] = {}
    own: dict[str, list[str]] = {}
    for text in texts:
        ids.setdefault(text.lang, []).append(text.id)
        own.setdefault(text.lang, []).append(text.text)
    return Vectors(ids, {lang: _encode(model, lines, config) for lang, lines in own.items()})
