"""Evaluation artifacts of every kind of benchmark, without an encoder."""

from __future__ import annotations

import json
from typing import Any

from ccp_ray.artifact import Artifact, InputRef, Request, open_output
from ccp_ray.ledger import put_bytes

TYDI = ("ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th")
VARIANTS = ("raw", "shift", "scale", "rotate")


def mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def macro(parts: dict[str, dict[str, float]]) -> dict[str, float]:
    return {metric: mean(numbers[metric] for numbers in parts.values()) for metric in next(iter(parts.values()))}


def mrtydi(languages: tuple[str, ...] = TYDI, recall: float = 0.8, split: str | None = "test") -> dict[str, Any]:
    """Recall rises by 0.01 a step of the calibration and by 0.002 a language."""
    variants = {}
    for step, variant in enumerate(VARIANTS):
        parts = {
            lang: {"mrr@100": recall / 2, "recall@100": recall + 0.01 * step + 0.002 * i}
            for i, lang in enumerate(languages)
        }
        variants[variant] = {"macro": macro(parts), "languages": parts}
    data = {"questions": 100} | ({"split": split} if split else {})
    return {"n": 100, "data": data, "calibration": "corpus", "variants": variants}


def xor(languages: tuple[str, ...] = ("ar", "bn", "fi", "ja", "ko", "ru", "te"), split: str = "dev") -> dict[str, Any]:
    parts = {lang: {"r@2kt": 0.5 + 0.01 * i, "r@5kt": 0.6 + 0.01 * i} for i, lang in enumerate(languages)}
    raw = {"macro": macro(parts), "languages": parts}
    return {"n": 9, "data": {"split": split}, "calibration": "none", "variants": {"raw": raw}}


def _ways(value: float) -> dict[str, float]:
    return {"forward": value - 0.01, "backward": value + 0.01, "mean": value}


def _bitext(languages: tuple[str, ...], value: float) -> dict[str, Any]:
    pairs = {f"{lang}-en": _ways(value + 0.3 * (i % 7) / 7) for i, lang in enumerate(languages)}
    return {"macro": macro(pairs), "pairs": pairs}


def _tatoeba_score(languages: tuple[str, ...], value: float) -> dict[str, Any]:
    score, margin = (_bitext(languages, value + more) for more in (0.0, 0.05))
    for one in (score, margin):
        one["averages"] = {"36": one["macro"]}
    joined = {"macro": _ways(0.2), "pairs": {"de-fr": _ways(0.2)}}
    return score | {"margin": margin | {"joined": joined}, "joined": joined}


def tatoeba(languages: tuple[str, ...] = ("fr", "de", "ar"), missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """With margin, averages and joined pairs, as `eval.tatoeba` writes them; the 36 lack what is `missing`."""
    variants = {name: _tatoeba_score(languages, 0.3 + 0.05 * step) for step, name in enumerate(VARIANTS)}
    told = {"36": {"languages": len(languages), "complete": not missing, "missing": list(missing)}}
    data = {"pairs": dict.fromkeys(variants["raw"]["pairs"], 1000), "missing": list(missing), "averages": told}
    data |= {"joined": {"pairs": {"de-fr": 228}, "short": {"ar-de": 3}}, "unofficial": {}}
    own = {"scale": {}, "rotation": {}, "variants": {name: _tatoeba_score(languages, 0.4) for name in VARIANTS}}
    return {"n": 9, "data": data, "calibration": "corpus", "variants": variants, "own": own}


def fitted_on_itself(result: dict[str, Any]) -> dict[str, Any]:
    """The same without a given calibration: one fitted on the benchmark's own sentences is the only one."""
    rest = {name: value for name, value in result.items() if name != "own"}
    return rest | {"calibration": "benchmark", "scale": {}, "rotation": {}}


def xquad_r() -> dict[str, Any]:
    """Of the ten best candidates half are in the question's language."""
    parts = {lang: {"map": 0.2, "map_mono": 0.5, "same_language@10": 0.4} for lang in ("ar", "de", "en")}
    top = {lang: {other: 0.5 if other == lang else 0.25 for other in parts} for lang in parts}
    answers = {"ar": {"ar": {"map": 0.1, "rank": 3.0}}}
    score = {"macro": macro(parts), "languages": parts, "answers": answers, "top": top}
    data = {"languages": {}, "complete": False, "missing": ["el", "es"], "unofficial": {}}
    return {"n": 9, "data": data, "calibration": "none", "variants": {"raw": score}}


def write_evaluation(
    uri: str, benchmarks: dict[str, Any], scored: tuple[str, str] = ("encoder", "runs/encoder"), **more: Any
) -> Artifact:
    """A finished evaluation artifact with these results; `scored`: role and URI of what was scored."""
    inputs = [InputRef(role=scored[0], uri=scored[1], fingerprint="f" * 64)]
    output = open_output(uri, Request(kind="evaluation", config={"of": uri}, inputs=inputs))
    assert not isinstance(output, Artifact)
    body = json.dumps({"benchmarks": benchmarks} | more, indent=1).encode()
    return output.finish([put_bytes(output.store, "results.json", body)], {})


def write_curve(uri: str, rows: list[dict[str, Any]], kind: str = "curve") -> Artifact:
    """An artifact of training with evaluations of its checkpoints."""
    output = open_output(uri, Request(kind=kind, config={}))
    assert not isinstance(output, Artifact)
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return output.finish([put_bytes(output.store, "evaluations.jsonl", body)], {})
