"""Where the bench keeps its figures: one JSON file a machine, and a chart beside it.

A part that was not measured this time stays as it was, and so does a section of `embed`. Every part has its own date.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from jobs.bench_scaling import worker_chart


def keep(report: Mapping[str, Any], folder: Path) -> Path:
    """Merge the figures into this machine's file, and return it."""
    hardware = machine()
    name = re.sub(r"[^a-z0-9]+", "-", f"{hardware['cpu']} {hardware['cores']} cores".lower()).strip("-")
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if file.exists() else {}
    merged = {**before, "machine": hardware, **report}
    if "embed" in report:
        merged["embed"] = {**before.get("embed", {}), **report["embed"]}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(merged, indent=1) + "\n")
    partial.replace(file)  # whole or not at all: the file also holds what took hours before
    if "workers" in report.get("embed", {}):
        chart = worker_chart(report["embed"]["workers"]["rates"])
        file.with_name(f"{file.stem}-workers.svg").write_text(chart)
    return file


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
