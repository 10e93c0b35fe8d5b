"""The stages part of the bench: the quickstart's pipeline (fewer training steps) a few times from nothing.

Medians of rows/s, tokens/s, padding efficiency and peak memory of each stage, as a user sees them, with starting the
workers.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccp_ray.config import load_config
from ccp_ray.progress import say
from ccp_ray.session import ray_session
from jobs.benches.figures import today
from jobs.pipeline import PipelineConfig, Stages, run_stages
from jobs.pipeline_report import stage_figures
from jobs.plan import duration, megabytes

_RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
_FIGURES = ("seconds", "rows_per_s", "tokens_per_s", "padding_efficiency", "peak_memory_bytes")


def stages_bench(config: Sequence[str], overrides: Sequence[str], rounds: int) -> dict[str, Any]:
    """Figures of every run and their medians. config: recipes instead of the quickstart's. Raises UsageError."""
    recipe = load_config(PipelineConfig, config or [str(_RECIPE)], ["pretrain.steps=100", *overrides])
    with ray_session():
        measured = [_round(recipe, number + 1, rounds) for number in range(rounds)]
    return {"date": today(), "rounds": rounds, "medians": _medians(measured), "measured": measured}


def stages_table(medians: dict[str, dict[str, float | None]]) -> str:
    """The medians as aligned text."""
    lines = [f"{'stage':<24}{'time':>12}{'rows/s':>12}{'tokens/s':>12}{'padding eff.':>14}{'peak memory':>13}"]
    for stage, figures in medians.items():
        rows, tokens, share = (figures[name] for name in _FIGURES[1:4])
        cells = (
            f"{duration(figures['seconds'] or 0):>12}",
            f"{rows:>12,.0f}" if rows else f"{'-':>12}",
            f"{tokens:>12,.0f}" if tokens else f"{'-':>12}",
            f"{share:>14.3f}" if share else f"{'-':>14}",
            f"{megabytes(figures['peak_memory_bytes'] or 0):>13}",
        )
        lines.append(f"{stage:<24}" + "".join(cells))
    return "\n".join(lines)


def _round(recipe: PipelineConfig, number: int, rounds: int) -> list[dict[str, Any]]:
    say(f"bench: run {number} of {rounds}")
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
        stages = Stages(folder)
        run_stages(recipe, stages)
        return [stage_figures(item) for item in stages.finished]


def _medians(measured: list[list[dict[str, Any]]]) -> dict[str, dict[str, float | None]]:
    out: dict[str, dict[str, float | None]] = {}
    for rows in zip(*measured, strict=True):
        found = {name: [row[name] for row in rows if row[name] is not None] for name in _FIGURES}
        out[rows[0]["stage"]] = {name: statistics.median(values) if values else None for name, values in found.items()}
    return out
