"""The evaluation part of the bench: `evaluate` on Tatoeba against encoding the same sentences and nothing else.

* Evaluation: as a user calls it, in a running Ray session: texts written, embedded by the job, read back, languages
  calibrated, both directions scored for every variant, files written.
* Encoding alone: as many warm actors, model loaded, that tokenise and encode the same sentences.

Two sections: `encoder`, the one that is named (MiniLM, 11 M parameters in its layers), and `xlmr_base`, the size of
which the field's tables are (85 M). What is done beside encoding weighs less beside a larger encoder.

Tatoeba is not generated: it needs `--data`.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from ccp_ray.errors import UsageError
from ccp_ray.session import machine_cpus, ray_session
from eval.evaluate import EvaluateConfig, evaluate, load_benchmarks
from jobs.benches.figures import BenchOptions, Figure, interleaved, median, median_ratio, report
from jobs.benches.workers import Workers, shares
from jobs.benches.xlmr_base import write_encoder

XLMR = "xlmr_base"
SECTIONS = ("encoder", XLMR)
_TATOEBA = "tatoeba"
_ALONE, _EVALUATION = "encoding alone", "evaluation"
_PIECES_A_WORKER = 8


def evaluation_bench(options: BenchOptions, shape: dict[str, Any] | None = None) -> dict[str, Any]:
    """The figures. shape: XLMRobertaConfig, instead of XLM-R base's.

    Raises UsageError for an unknown section; it or DataError where `options.data` holds no Tatoeba.
    """
    if not options.data:
        raise UsageError("bench evaluation: --data is missing, the folder with Tatoeba")
    sections = options.chosen(SECTIONS) or SECTIONS
    benchmark = load_benchmarks([_TATOEBA], {_TATOEBA: options.data}, EvaluateConfig())[_TATOEBA]
    sentences = [text.text for text in benchmark.texts()]
    figures, details = list[Figure](), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, ray_session():
        for section in sections:
            base = section == XLMR
            encoder = write_encoder(Path(folder, XLMR), sentences, shape) if base else options.encoder
            measured = _measured(encoder, options, sentences, folder)
            figures += _figures("XLM-R base" if base else "encoder", measured)
            details[section] = measured
    return report(
        figures, workers=machine_cpus(), sentences=len(sentences), benchmark=benchmark.describe(), seconds=details
    )


def _measured(encoder: str, options: BenchOptions, sentences: list[str], folder: str) -> list[dict[str, float]]:
    from ccp_ray.hardware import resolve

    config, data, workers = EvaluateConfig(), options.data, machine_cpus()
    bare = Workers(workers, encoder, resolve(config.embed.precision))
    pieces = shares(sentences, _PIECES_A_WORKER * workers)

    def whole() -> float:
        started = time.perf_counter()
        evaluate(encoder, [_TATOEBA], str(data), f"{folder}/out-{uuid.uuid4().hex[:8]}", config=config)
        return time.perf_counter() - started

    contenders = {_ALONE: lambda: bare.encode(pieces)[1], _EVALUATION: whole}
    measured = interleaved(contenders, options.rounds, "evaluation")
    bare.end()
    return measured


def _figures(name: str, measured: list[dict[str, float]]) -> list[Figure]:
    return [
        Figure(f"{name}: {_ALONE}", median(measured, _ALONE), "s"),
        Figure(f"{name}: {_EVALUATION}", median(measured, _EVALUATION), "s"),
        Figure(f"{name}: {_EVALUATION} / {_ALONE}", median_ratio(measured, _EVALUATION, _ALONE), at_most=1.2),
    ]
