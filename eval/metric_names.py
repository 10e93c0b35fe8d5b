"""How benchmarks are known: the order of variants and their names, and the metrics that come first."""

from __future__ import annotations

from collections.abc import Sequence

VARIANTS = ("raw", "shift", "scale", "rotate")
_FIRST = ("mean", "map", "accuracy", "mrr@100", "recall@100", "r@2kt", "r@5kt")


def variant_label(variant: str) -> str:
    """Steps add up: "+ scale" holds shift, too."""
    return f"+ {variant}" if variant.rstrip("*") in VARIANTS[1:] else variant


def variant_order(variant: str) -> int:
    """Its place among the steps of a calibration: what JSON sorts by name comes in this order again."""
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS)


def headline_metrics(metrics: Sequence[str]) -> list[str]:
    """The metrics that a benchmark is known by, for which higher is better; all where none of them is known here."""
    return [name for name in _FIRST if name in metrics] or list(metrics)
