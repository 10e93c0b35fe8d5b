"""The evaluation part of the bench: `evaluate` on Tatoeba against encoding the same sentences and nothing else.

* Evaluation: as a user calls it, in a running Ray session: texts written, embedded by the job, read back, languages
  calibrated, both directions scored for every variant, files written.
* Encoding alone: as many warm actors, model loaded, that tokenise and encode the same sentences.

Tatoeba is not generated: it needs `--data`.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from typing import Any

from ccp_ray.errors import UsageError
from ccp_ray.session import machine_cpus, ray_session
from eval.evaluate import EvaluateConfig, evaluate, load_benchmarks
from jobs.benches.figures import BenchOptions, Figure, interleaved, median, median_ratio, report
from jobs.benches.workers import Workers, shares

_TATOEBA = "tatoeba"
_ALONE, _EVALUATION = "encoding alone", "evaluation"
_PIECES_A_WORKER = 8


def evaluation_bench(options: BenchOptions) -> dict[str, Any]:
    """The figures. Raises UsageError or DataError where `options.data` holds no Tatoeba."""
    from ccp_ray.hardware import resolve

    if not options.data:
        raise UsageError("bench evaluation: --data is missing, the folder with Tatoeba")
    config, data, workers = EvaluateConfig(), options.data, machine_cpus()
    benchmark = load_benchmarks([_TATOEBA], {_TATOEBA: data}, config)[_TATOEBA]
    sentences = [text.text for text in benchmark.texts()]
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, ray_session():
        bare = Workers(workers, options.encoder, resolve(config.embed.precision))
        pieces = shares(sentences, _PIECES_A_WORKER * workers)

        def whole() -> float:
            started = time.perf_counter()
            evaluate(options.encoder, [_TATOEBA], data, f"{folder}/out-{uuid.uuid4().hex[:8]}", config=config)
            return time.perf_counter() - started

        contenders = {_ALONE: lambda: bare.encode(pieces)[1], _EVALUATION: whole}
        measured = interleaved(contenders, options.rounds, "evaluation")
    figures = [
        Figure(f"Tatoeba, {len(sentences):,} sentences: {_ALONE}", median(measured, _ALONE), "s"),
        Figure(_EVALUATION, median(measured, _EVALUATION), "s"),
        Figure(f"{_EVALUATION} / {_ALONE}", median_ratio(measured, _EVALUATION, _ALONE), at_most=1.2),
    ]
    return report(figures, workers=workers, benchmark=benchmark.describe(), seconds=measured)
