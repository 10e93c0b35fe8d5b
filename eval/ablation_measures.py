"""What one run of an ablation measured, as named numbers and curves: a pure function of its scores and metrics rows.

accuracy.STEP     top-1 accuracy of translations, mean over pairs and directions; STEP: raw, shift, scale, rotate
own.STEP          the same, calibrated on the test sentences themselves, each language alone
context.STEP      held-out context retrieval, mean over languages
spread, effective_rank, and every other number of a probe   the last one's mean over languages; `spread` is `std`
lowest_spread     the last probe's spread of the language that has least of it: where a collapse shows first
contrastive, staleness_gap, and every other number of a metrics row   mean of the last tenth of the rows
loss_share        contrastive loss over that of guessing: comparable where the number of negatives is not
group_accuracy    a metrics row's accuracy: how often the context is told from the group's other sentences
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Points = list[tuple[float, float]]

CURVES = ("loss_share", "group_accuracy", "staleness_gap", "spread", "effective_rank", "leakage")
_NAMES = {"std": "spread", "accuracy": "group_accuracy"}
_LAST = 10  # one in so many of the training rows makes a final value
_KIND = re.compile(r"(?P<kind>.+?)(?: of \S+)? at step \d+")


def score_measures(benchmarks: Mapping[str, Any]) -> dict[str, float]:
    """Of an evaluation's results.json (its `benchmarks`)."""
    found: dict[str, float] = {}
    if "translations" in benchmarks:
        entry = benchmarks["translations"]
        found |= {f"accuracy.{step}": score["macro"]["mean"] for step, score in entry["variants"].items()}
        own = entry.get("own", {"variants": {}})
        found |= {f"own.{step}": score["macro"]["mean"] for step, score in own["variants"].items()}
    if "context" in benchmarks:
        variants = benchmarks["context"]["variants"]
        found |= {f"context.{step}": score["macro"]["accuracy"] for step, score in variants.items()}
        found["context.chance"] = variants["raw"]["macro"]["chance"]
    return found


def pair_accuracies(benchmarks: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{calibration step: {pair: accuracy, mean of both directions}}; `own` stands for the last column of a report."""
    if "translations" not in benchmarks:
        return {}
    entry = benchmarks["translations"]
    steps = {step: score["pairs"] for step, score in entry["variants"].items()}
    if "own" in entry:
        steps["own"] = entry["own"]["variants"]["rotate"]["pairs"]
    return {step: {pair: score["mean"] for pair, score in pairs.items()} for step, pairs in steps.items()}


def training_measures(rows: Sequence[Row]) -> dict[str, float]:
    """Of metrics rows: the end of training and the last probe."""
    found: dict[str, float] = {}
    training, probes = _split(rows)
    last = training[-max(1, len(training) // _LAST) :]
    for name, value in last[0].items() if last else ():
        if not isinstance(value, Mapping):  # losses by language
            found[name] = float(np.mean([row[name] for row in last]))
    if probes:
        found |= _over_languages(probes[-1])
        found["lowest_spread"] = min(value["std"] for value in probes[-1]["probe"].values())
    found.pop("step", None)
    return found


def training_curves(rows: Sequence[Row]) -> dict[str, Points]:
    """(step, value) of each of `CURVES` that the rows have; those of probes are means over languages."""
    training, probes = _split(rows)
    found = [*training, *map(_over_languages, probes)]
    curves = {name: [(float(row["step"]), float(row[name])) for row in found if name in row] for name in CURVES}
    return {name: points for name, points in curves.items() if points}


def problem_kinds(problems: Sequence[str]) -> list[str]:
    """What the monitor named, without languages, steps and figures; each once."""
    found = (_KIND.match(problem) for problem in problems)
    return sorted({match["kind"] if match else problem for match, problem in zip(found, problems, strict=True)})


def _split(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[Row]]:
    """Training rows under our names with `loss_share` added, and probe rows."""
    training = [{_NAMES.get(name, name): value for name, value in row.items()} for row in rows if "probe" not in row]
    for row in training:
        if row.get("chance"):
            row["loss_share"] = row["contrastive"] / row["chance"]
    return training, [row for row in rows if "probe" in row]


def _over_languages(row: Row) -> dict[str, float]:
    """A probe row's numbers under our names, mean over languages, and its step."""
    values = list(row["probe"].values())
    means = {_NAMES.get(name, name): float(np.mean([value[name] for value in values])) for name in values[0]}
    return {"step": float(row["step"])} | means
