"""The few numbers of a score that are shown on one line: its macro, and what a bitext's reader looks for besides.

    mean_14, mean_36       Tatoeba's averages; mean_13_of_14 where only 13 of the languages are there
    mean_joined            pairs without English
    margin_...             the means by margin

An average over all pairs of the score is its macro mean, and is not said again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def headline(score: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, fractions; `data` is what the benchmark says of itself (`describe`)."""
    values: dict[str, float] = dict(score["macro"])
    for name, ways in score.get("averages", {}).items():
        told = data["averages"][name]
        if told["languages"] < len(score["pairs"]):
            values[f"mean_{name}" if told["complete"] else f"mean_{told['languages']}_of_{name}"] = ways["mean"]
    if "joined" in score:
        values["mean_joined"] = score["joined"]["macro"]["mean"]
    if "margin" in score:
        by_margin = headline(score["margin"], data).items()
        values |= {f"margin_{name}": value for name, value in by_margin if name.startswith("mean")}
    return values
