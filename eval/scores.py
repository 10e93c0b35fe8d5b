"""A benchmark's entry in results.json, from vectors or from runs, and the few numbers of it that an artifact shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccp_ray.calibration import Calibration
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.errors import TooFewRowsError
from ccp_ray.progress import say
from eval.headline import headline
from eval.protocol import Benchmark, Vectors, score_raw, score_variants
from eval.ranked import RankedBenchmark


def score_benchmark(
    benchmark: Benchmark, vectors: Vectors, given: Calibration | None, config: CalibrationConfig
) -> dict[str, Any]:
    """One benchmark's entry in results.json, from its vectors alone. `config` is used where none is `given`.

    Where the benchmark's own sentences are too few to fit on, that is said and what needs no fit is scored.
    """
    result = {"n": len(benchmark.texts()), "data": benchmark.describe()}
    own = _own(benchmark, vectors, config) if given is None or benchmark.name != "context" else None
    if given is not None:
        result |= {"calibration": "corpus", "variants": score_variants(benchmark, vectors, given)}
        return result | ({"own": own} if own else {})
    if own is None:
        return result | {"calibration": "none", "variants": score_raw(benchmark, vectors)}
    return result | {"calibration": "benchmark"} | own


def ranked_entry(benchmark: RankedBenchmark, calibrated: bool, variants: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a benchmark that scores runs: {variant: score} beside what was read."""
    return {
        "n": len(benchmark.questions()),
        "data": benchmark.describe(),
        "calibration": "corpus" if calibrated else "none",
        "variants": dict(variants),
    }


def summary_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """{"benchmarks": {name: {variant: {number: value}}}} (`eval.headline`) and how each was calibrated."""
    own = {name: _lines(result["own"], result["data"]) for name, result in results.items() if "own" in result}
    return {
        "benchmarks": {name: _lines(result, result["data"]) for name, result in results.items()},
        "calibration": {name: result["calibration"] for name, result in results.items()},
        "own_calibration": own,
    }


def _lines(result: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {variant: headline(score, data) for variant, score in result["variants"].items()}


def _own(benchmark: Benchmark, vectors: Vectors, config: CalibrationConfig) -> dict[str, Any] | None:
    """Scores with a calibration fitted on the benchmark's own sentences, each language alone; None for too few."""
    try:
        calibration = vectors.fit(_own_config(benchmark, config))
    except TooFewRowsError as error:
        say(f"{benchmark.name}: not calibrated on its own sentences: {error}")
        return None
    languages = calibration.summary()["languages"]
    verdicts = {step: {lang: told[step] for lang, told in languages.items()} for step in ("scale", "rotation")}
    return {**verdicts, "variants": score_variants(benchmark, vectors, calibration)}


def _own_config(benchmark: Benchmark, config: CalibrationConfig) -> CalibrationConfig:
    """Context retrieval stays within a language, so a rotation would be learned for nothing."""
    return config.model_copy(update={"rotate": False}) if benchmark.name == "context" else config
