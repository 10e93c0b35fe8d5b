"""ccp-ray bench: what each stage takes, and a training step side by side with others.

Stages: runs the quickstart's pipeline (fewer training steps) a few times from nothing and prints medians of rows/s,
tokens/s, padding efficiency and peak memory, as a user sees them, with starting the workers. Training: see
`jobs.bench_training`. All figures are kept as JSON under `bench/`, one file a machine.
"""

from __future__ import annotations

import datetime
import enum
import json
import platform
import re
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from ccp_ray.config import load_config
from ccp_ray.progress import say
from ccp_ray.session import ray_session
from jobs.bench_training import training_bench, training_table
from jobs.command import AsJson, ConfigFiles, Overrides, main, native_noise_aside, print_json, reported
from jobs.pipeline import PipelineConfig, Stages, run_stages
from jobs.pipeline_report import stage_figures
from jobs.plan import duration, megabytes


class Part(str, enum.Enum):
    """A half of the bench."""

    stages = "stages"
    training = "training"


_TRAINING_ROUNDS = 5
_RECIPE = Path(__file__).parent / "recipes" / "quickstart.yaml"
_FIGURES = ("seconds", "rows_per_s", "tokens_per_s", "padding_efficiency", "peak_memory_bytes")


def bench(
    config: ConfigFiles = None,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs from nothing; medians are shown.")] = 3,
    results: Annotated[str, typer.Option(help="Folder that keeps the results.")] = "bench",
    documents: Annotated[list[str] | None, typer.Option(help="Text to train on (default: generated).")] = None,
    only: Annotated[Part | None, typer.Option(help="One half of it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every stage, and a training step against others, on this machine."""
    report: dict[str, Any] = {}
    with reported():
        recipe = load_config(PipelineConfig, config or [str(_RECIPE)], ["pretrain.steps=100", *(overrides or ())])
        with native_noise_aside(), ray_session():
            if only != Part.training:
                measured = [_round(recipe, number + 1, rounds) for number in range(rounds)]
                report |= {"date": _today(), "rounds": rounds, "medians": _medians(measured), "measured": measured}
            if only != Part.stages:
                report["training"] = {"date": _today(), **training_bench(documents or [], _TRAINING_ROUNDS)}
    file = keep(report, Path(results))
    if as_json:
        print_json({"file": str(file)} | {name: report[name] for name in ("medians", "training") if name in report})
        return
    if "medians" in report:
        print(table(report["medians"]))
        print(f"median of {rounds} runs\n")
    if "training" in report:
        print(training_table(report["training"]))
        print(f"median of {_TRAINING_ROUNDS} rounds")
    print(f"all figures are in {file}")


def keep(report: dict[str, Any], folder: Path) -> Path:
    """Write the figures of this machine; a half that was not measured stays as it was."""
    hardware = machine()
    name = re.sub(r"[^a-z0-9]+", "-", f"{hardware['cpu']} {hardware['cores']} cores".lower()).strip("-")
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | {"machine": hardware} | report, indent=1) + "\n")
    return file


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def table(medians: dict[str, dict[str, float | None]]) -> str:
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


def machine() -> dict[str, Any]:
    """The hardware that the figures belong to."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory": memory,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


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


if __name__ == "__main__":
    main(bench)
