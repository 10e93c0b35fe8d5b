"""Evaluate a ranking that needs no encoder on benchmarks with a collection: an artifact like that of `evaluate`.

runs/mrtydi/LANG.trec               the rankings: `evaluate --run` reads them again
runs/xor_retrieve/predictions.json  the same in XOR-Retrieve's official form
results.json                        {"benchmarks": {NAME: {"n", "data", "calibration": "none", "variants": {"raw": ...}}}}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, open_output
from ccp_ray.config import StrictModel
from ccp_ray.documents import find_documents, fingerprint
from ccp_ray.errors import UsageError
from ccp_ray.ledger import FileRecord, put_bytes
from ccp_ray.storage import Store, absolute_uri
from eval.baselines import METHODS, BaselineConfig, rank
from eval.mrtydi import MrTydiConfig, load_mrtydi
from eval.ranked import RankedBenchmark, Run
from eval.run_reader import to_predictions, to_trec
from eval.xor_retrieve import XorRetrieveConfig, load_xor_retrieve

RESULTS = "results.json"


class BaselinesConfig(StrictModel):
    """What is read, and how it is ranked."""

    mrtydi: MrTydiConfig = MrTydiConfig()
    xor_retrieve: XorRetrieveConfig = XorRetrieveConfig()
    baseline: BaselineConfig = BaselineConfig()


_LOADERS: dict[str, Callable[[str, BaselinesConfig], RankedBenchmark]] = {
    "mrtydi": lambda data, config: load_mrtydi(data, config.mrtydi),
    "xor_retrieve": lambda data, config: load_xor_retrieve(data, config.xor_retrieve),
}
RANKED = tuple(_LOADERS)


def evaluate_baseline(
    method: str, benchmarks: Sequence[str], data: str, output: str, config: BaselinesConfig | None = None
) -> Artifact:
    """Rank by "bm25" or "random", score, and write an artifact of kind "evaluation".

    Raises UsageError for unknown names and missing files, DataError for broken ones.
    """
    config = config or BaselinesConfig()
    if method not in METHODS:
        raise UsageError(f"unknown baseline {method!r}; known: {', '.join(METHODS)}")
    unknown = [name for name in benchmarks if name not in _LOADERS]
    if unknown or not benchmarks:
        found = f"unknown benchmark {unknown[0]!r}" if unknown else "no benchmark chosen"
        raise UsageError(f"{found}; with a collection to rank there are {', '.join(_LOADERS)}")
    loaded = {name: _LOADERS[name](data, config) for name in _LOADERS if name in benchmarks}
    wanted = config.model_dump(mode="json", include={"baseline", *loaded}) | {"method": method}
    inputs = [_reference(benchmark, data) for benchmark in loaded.values()]
    target = open_output(output, Request(kind="evaluation", config=wanted, inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    files: list[FileRecord] = []
    results: dict[str, Any] = {}
    with target.unless_refused():
        for name, benchmark in loaded.items():
            run = rank(benchmark, method, config.baseline)
            files += write_runs(target.store, benchmark, run, method)
            results[name] = {
                "n": len(benchmark.questions()),
                "data": benchmark.describe(),
                "calibration": "none",
                "variants": {"raw": benchmark.score(run)},
            }
    body = json.dumps({"benchmarks": results}, indent=1, ensure_ascii=False, sort_keys=True).encode()
    files.append(put_bytes(target.store, RESULTS, body))
    return target.finish(files, _summary(results), {"seconds": time.monotonic() - started})


def write_runs(store: Store, benchmark: RankedBenchmark, run: Run, tag: str) -> list[FileRecord]:
    """The run in the form that the benchmark's own tools read."""
    folder = f"runs/{benchmark.name}"
    if benchmark.needs_text:
        return [put_bytes(store, f"{folder}/predictions.json", to_predictions(run))]
    return [put_bytes(store, f"{folder}/{lang}.trec", to_trec(questions, tag)) for lang, questions in run.items()]


def _reference(benchmark: RankedBenchmark, data: str) -> InputRef:
    marks = {one.name: fingerprint(find_documents([one.uri])) for one in benchmark.collections()}
    content = {"key": benchmark.key(), "collections": marks}
    return InputRef(role=f"data.{benchmark.name}", uri=absolute_uri(data), fingerprint=digest_json(content))


def _summary(results: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "benchmarks": {name: {"raw": result["variants"]["raw"]["macro"]} for name, result in results.items()},
        "calibration": dict.fromkeys(results, "none"),
        "own_calibration": {},
    }
