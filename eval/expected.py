"""Values that a run is expected to reach, from a YAML file, and what became of them.

    tatoeba:                               benchmark
      raw:                                 variant
        macro.mean: {value: 0.312, tolerance: 0.01}
        averages.36.mean: {value: 0.35, tolerance: 0.01}
        pairs.fr-en.forward: {value: 0.41, tolerance: 0.02}
        margin.macro.mean: {value: 0.33, tolerance: 0.01}

A name is the path to a number of the variant's score in results.json, joined by dots; values are fractions of 1. A
value below `value - tolerance` falls short; one above `value + tolerance` is better than expected, which is said and no
failure: renew the file then (`--write-expected`). A value that the run does not have is a failure, as a short one is.
Of an average that lacks languages it is said that it does, whatever the verdict.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import Field

from ccp_ray.config import StrictModel, build_config, read_yaml
from ccp_ray.errors import CcpError, UsageError
from eval.metric_names import headline_metrics

Values = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Benchmark -> variant -> path -> value."""

_SLACK = 1e-9  # a value at the very edge meets its expectation: 0.3 - 0.1 is 0.19999999999999998


class ShortfallError(CcpError):
    """A run has less than was expected of it, or not all of it. Exit code 1, as work that failed."""


class Expectation(StrictModel):
    """A value and how far below it still counts as reached; fractions of 1."""

    value: float = Field(ge=0, le=1)
    tolerance: float = Field(ge=0, le=1)


class Expected(StrictModel):
    """What a file expects: benchmark, variant, path."""

    benchmarks: dict[str, dict[str, dict[str, Expectation]]]


class Finding(StrictModel):
    """What became of an expectation in one run."""

    run: str
    benchmark: str
    variant: str
    name: str
    value: float
    tolerance: float
    found: float | None = Field(description="None: the run has no such value")
    verdict: Literal["met", "better", "short", "missing"]
    hint: str = Field(default="", description="of a missing one: what is nearest")
    incomplete: str = Field(default="", description="what the average lacks")

    def failed(self) -> bool:
        return self.verdict in ("short", "missing")

    def __str__(self) -> str:
        what = f"{self.run}: {self.benchmark} {self.variant} {self.name}"
        wanted = f"expected {self.value:.4f} ± {self.tolerance:.4f}"
        if self.found is None:
            return f"{what}: not in the run ({wanted}){self.hint and f'; {self.hint}'}"
        words = {"met": "as expected", "better": "better than expected", "short": "falls short"}
        lacks = f"; the average {self.incomplete}" if self.incomplete else ""
        return f"{what}: {self.found:.4f}, {words[self.verdict]} ({wanted}{lacks})"


def load_expected(uri: str) -> Expected:
    """Read a file of expected values. Raises UsageError naming the file and the key that is wrong."""
    written = read_yaml(uri)
    try:
        expected = build_config(Expected, {"benchmarks": written})
    except UsageError as error:
        raise UsageError(f"{uri}: {str(error).replace('benchmarks.', '')}") from None
    if not any(names for variants in expected.benchmarks.values() for names in variants.values()):
        raise UsageError(f"{uri}: expects nothing; give benchmark: variant: name: {{value, tolerance}}")
    return expected


def check(
    expected: Expected, run: str, values: Values, incomplete: Mapping[str, Mapping[str, str]] | None = None
) -> list[Finding]:
    """Every expectation against a run's values, in the file's order.

    incomplete: benchmark -> average ("macro" or a name) -> what it lacks, in words.
    """
    lacking = incomplete or {}
    return [
        _judge(expectation, run, (benchmark, variant, name), values, _lacks(name, lacking.get(benchmark, {})))
        for benchmark, variants in expected.benchmarks.items()
        for variant, names in variants.items()
        for name, expectation in names.items()
    ]


def write_expected(values: Values, tolerance: float) -> str:
    """A file that expects what a run has: its averages by their headline metrics, to four decimals."""
    kept = {
        benchmark: {
            variant: {
                name: {"value": round(value, 4), "tolerance": tolerance}
                for name, value in names.items()
                if _written(name, names)
            }
            for variant, names in variants.items()
        }
        for benchmark, variants in values.items()
    }
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _written(name: str, names: Mapping[str, float]) -> bool:
    """Whether a path leads to an average, by a metric of which more is better."""
    metrics = list(dict.fromkeys(other.rpartition(".")[2] for other in names))
    *place, metric = name.split(".")
    return ("macro" in place or "averages" in place) and metric in headline_metrics(metrics)


def _lacks(name: str, incomplete: Mapping[str, str]) -> str:
    """Of the average that a path leads to."""
    parts = name.split(".")
    averages = (part for part, before in zip(parts, ["", *parts], strict=False) if before == "averages")
    return incomplete.get(next(averages, "macro" if "macro" in parts else ""), "")


def _judge(expectation: Expectation, run: str, place: tuple[str, str, str], values: Values, incomplete: str) -> Finding:
    benchmark, variant, name = place
    found = values.get(benchmark, {}).get(variant, {}).get(name)
    told = {"run": run, "benchmark": benchmark, "variant": variant, "name": name}
    told |= expectation.model_dump() | {"incomplete": incomplete}
    if found is None:
        return Finding.model_validate(told | {"found": None, "verdict": "missing", "hint": _nearest(place, values)})
    low, high = expectation.value - expectation.tolerance, expectation.value + expectation.tolerance
    verdict = "short" if found < low - _SLACK else "better" if found > high + _SLACK else "met"
    return Finding.model_validate(told | {"found": found, "verdict": verdict})


def _nearest(place: tuple[str, str, str], values: Values) -> str:
    """What the run has in the place of the first part that it lacks."""
    benchmark, variant, name = place
    known: Mapping[str, Any] = values.get(benchmark, values)
    missed = benchmark if benchmark not in values else variant
    if variant in values.get(benchmark, {}):
        near = difflib.get_close_matches(name, values[benchmark][variant], n=3, cutoff=0.5)
        return f"nearest: {', '.join(near)}" if near else f"{benchmark} {variant} has no name like it"
    return f"no {missed!r}; the run has {', '.join(known) or 'nothing'}"
