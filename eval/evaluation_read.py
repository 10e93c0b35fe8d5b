"""Evaluation artifacts as a report's runs: results.json, checked against its checksum, made typed and uniform.

Evaluations under one name are one run: each benchmark may be an artifact of its own. What a benchmark's averages lack
is taken from its `data` (`missing`, `complete`, `averages`) and from its scores (`missing`, `complete`: what a run had
nothing of), so that an incomplete average is never taken for a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from ccp_ray.artifact import Artifact
from ccp_ray.errors import DataError, UsageError
from eval.evaluate import RESULTS
from eval.evaluation_model import STAR, Run, Score, Scored, Source
from eval.metric_names import VARIANTS

_MANY = 6


def read_runs(evaluations: Sequence[Artifact], names: Sequence[str]) -> list[Run]:
    """Runs in order of their names' first appearance; `names` has one for each evaluation.

    Raises UsageError for a benchmark that stands twice in a run, DataError for results that are not of this program.
    """
    runs: dict[str, Run] = {}
    for name, artifact in zip(names, evaluations, strict=True):
        own = _read(name, artifact)
        runs[name] = _joined(runs[name], own) if name in runs else own
    return list(runs.values())


def default_names(uris: Sequence[str]) -> list[str]:
    """The last parts of each URI, as few as tell them apart. Raises UsageError for one that is given twice."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for taken in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-taken:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    double = next(uri for uri in uris if list(uris).count(uri) > 1)
    raise UsageError(f"{double}: given twice; give each evaluation once")


def values_of(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """All numbers of a run by benchmark, variant, and their path in results.json joined by dots."""
    return {
        name: {variant: dict(_paths(sections)) for variant, sections in scored.variants.items()}
        for name, scored in run.benchmarks.items()
    }


def _paths(sections: Mapping[str, Score]) -> Iterator[tuple[str, float]]:
    for section, score in sections.items():
        start = f"{section}." if section else ""
        groups = {f"{score.kind}s": score.parts, "averages": score.averages}
        yield from ((f"{start}macro.{metric}", value) for metric, value in score.macro.items())
        for group, parts in groups.items():
            for part, numbers in parts.items():
                yield from ((f"{start}{group}.{part}.{metric}", value) for metric, value in numbers.items())


def _joined(first: Run, second: Run) -> Run:
    double = sorted(first.benchmarks.keys() & second.benchmarks.keys())
    if double:
        places = " and ".join(source.uri for run in (first, second) for source in run.sources)
        raise UsageError(
            f"run {first.name!r}: {double[0]} stands in two of its evaluations ({places}); name them apart"
        )
    benchmarks = {**first.benchmarks, **second.benchmarks}
    missing = [name for name in dict.fromkeys(first.missing + second.missing) if name not in benchmarks]
    return Run(name=first.name, sources=first.sources + second.sources, benchmarks=benchmarks, missing=missing)


def _source(artifact: Artifact) -> Source:
    scored = next((ref.uri for ref in artifact.inputs if ref.role in ("encoder", "runs")), "")
    created = str(artifact.provenance.get("created", ""))
    return Source(uri=artifact.uri, fingerprint=artifact.fingerprint, scored=scored, created=created)


def _read(name: str, artifact: Artifact) -> Run:
    where = artifact.store.uri(RESULTS)
    try:
        results = json.loads(artifact.read(RESULTS))
        benchmarks = {benchmark: _scored(result) for benchmark, result in results["benchmarks"].items()}
        missing = list(results.get("missing", ()))
        return Run(name=name, sources=[_source(artifact)], benchmarks=benchmarks, missing=missing)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DataError(f"{where}: {place}: {problem['msg']}; make the evaluation again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not the results of an evaluation ({error!r}); make it again") from None


def _scored(result: Mapping[str, Any]) -> Scored:
    data = result["data"]
    star = STAR if result["calibration"] == "benchmark" else ""
    found = _variants(result["variants"], data, star)
    every = _variants(result.get("own", {}).get("variants", {}), data, STAR) | found
    order = [name for end in ("", STAR) for variant in VARIANTS if (name := f"{variant}{end}") in every]
    variants = {name: every[name] for name in [*order, *(name for name in found if name not in order)]}
    averages = {name for sections in found.values() for score in sections.values() for name in score.averages}
    return Scored(
        split=data.get("split"),
        calibration=result["calibration"],
        incomplete=_incomplete(data, list(result["variants"].values()), sorted(averages)),
        unofficial={**data.get("other_questions", {}), **data.get("unofficial", {})},
        variants=variants,
    )


def _variants(scores: Mapping[str, Any], data: Mapping[str, Any], star: str) -> dict[str, dict[str, Score]]:
    """{variant: {section: score}}; a star for all but raw, of which nothing is calibrated."""
    return {name if name == "raw" else f"{name}{star}": dict(_sections(score, data)) for name, score in scores.items()}


def _sections(score: Mapping[str, Any], data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Score]]:
    """The score under its path, then those that stand within it, each with what `data` say of its pairs."""
    kind: Literal["pair", "language"] = "pair" if "pairs" in score else "language"
    told = data.get("joined", {}) if path.endswith("joined") else data
    yield (
        path,
        Score(
            macro=score["macro"],
            parts=score.get(f"{kind}s", {}),
            kind=kind,
            averages=score.get("averages", {}),
            lines=told.get("pairs", {}) if kind == "pair" else {},
            top=score.get("top", {}),
        ),
    )
    for name, inner in score.items():
        if isinstance(inner, dict) and name != "macro" and isinstance(inner.get("macro"), dict):
            yield from _sections(inner, data, f"{path}.{name}".lstrip("."))


def _incomplete(
    data: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], averages: Sequence[str]
) -> dict[str, str]:
    """What "macro" and each average lack. An average of which nothing is said counts as incomplete."""
    out = {}
    missing = [_missing(told) for told in (data, *scores)]
    if any(missing) or any(told.get("complete") is False for told in (data, *scores)):
        out["macro"] = _lacks(list(dict.fromkeys(name for names in missing for name in names)))
    told = data.get("averages", {})
    for name in averages:
        if name not in told:
            out[name] = "does not say which languages it is over"
        elif not told[name]["complete"]:
            out[name] = _lacks(told[name]["missing"])
    return out


def _missing(told: Mapping[str, Any]) -> list[str]:
    """What data or a score say that they lack: languages, or questions counted by language."""
    missing = told.get("missing") or ()
    if isinstance(missing, Mapping):
        if len(missing) > _MANY:
            return [f"{sum(missing.values()):,} questions in {len(missing)} languages"]
        return [f"{count:,} questions in {lang}" for lang, count in missing.items()]
    return list(missing)


def _lacks(missing: Sequence[str]) -> str:
    if not missing:
        return "differs from the official files"
    return f"lacks {', '.join(missing)}" if len(missing) <= _MANY else f"lacks {len(missing)} languages"
