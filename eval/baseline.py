"""Evaluate a ranking that needs no encoder on benchmarks with a collection: an artifact like that of `evaluate`.

Its files are those of `evaluate` too (`eval.evaluate`, `eval.ranked_runs`), with the one variant "raw".
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.errors import UsageError
from ccp_ray.ledger import FileRecord, put_bytes
from eval.baselines import METHODS, BaselineConfig, rank
from eval.evaluate import RESULTS, EvaluateConfig, load_any, results_json, settings_of
from eval.loading import Loaded
from eval.ranked_runs import write_runs
from eval.scores import ranked_entry, summary_of

_VARIANT = "raw"


class BaselinesConfig(EvaluateConfig):
    """What is read, and how it is ranked."""

    baseline: BaselineConfig = BaselineConfig()


def load_baseline(method: str, benchmarks: Sequence[str], data: str, config: BaselinesConfig) -> Loaded:
    """What is to be ranked. Raises as `evaluate_baseline`."""
    if method not in METHODS:
        raise UsageError(f"unknown baseline {method!r}; known: {', '.join(METHODS)}")
    loaded = load_any(benchmarks, data, config)
    for name in loaded.texts():
        raise UsageError(f"benchmark {name!r} has no collection to rank; a baseline needs one, as mrtydi has")
    return loaded


def evaluate_baseline(
    method: str, benchmarks: Sequence[str], data: str, output: str, config: BaselinesConfig | None = None
) -> Artifact:
    """Rank by "bm25" or "random", score, and write an artifact of kind "evaluation".

    Raises UsageError for unknown names, missing files and benchmarks without a collection, DataError for broken files.
    """
    config = config or BaselinesConfig()
    loaded = load_baseline(method, benchmarks, data, config)
    ranked = loaded.ranked()
    wanted = settings_of(config, loaded, encoded=False) | {"method": method}
    inputs = [loaded.reference(name, {"key": benchmark.key()}) for name, benchmark in ranked.items()]
    target = open_output(output, Request(kind="evaluation", config=wanted, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    files: list[FileRecord] = []
    results: dict[str, Any] = {}
    with target.unless_refused():
        for name, benchmark in ranked.items():
            run = rank(benchmark, method, config.baseline)
            files += write_runs(target.store, benchmark, _VARIANT, run)
            results[name] = ranked_entry(benchmark, False, {_VARIANT: benchmark.score(run)})
    files.append(put_bytes(target.store, RESULTS, results_json(results, loaded.missing)))
    return target.finish(files, summary_of(results), {"seconds": time.monotonic() - started})
