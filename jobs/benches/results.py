"""Where the bench keeps its figures: one JSON file a machine, and a chart beside it.

A part that was not measured this time stays as it was, and so does a section of `embed`. Every part has its own date.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from jobs.benches.scaling import worker_chart

_VECTORS = ("amx_tile", "avx512_bf16", "avx512f", "avx2")  # best first, as Linux names them


def keep(report: Mapping[str, Any], folder: Path) -> Path:
    """Merge the figures into this machine's file, and return it."""
    hardware = machine()
    file = folder / f"{file_name(hardware)}.json"
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


def file_name(hardware: Mapping[str, Any]) -> str:
    """`amd-epyc-avx512-bf16-2-cores`: virtual machines name a whole family of processors alike, so the vector unit says
    which of them it is; between AVX2 and AVX512-BF16 encoding differs by a factor of two and more."""
    words = f"{hardware['cpu']} {hardware['vectors'] or ''} {hardware['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def machine() -> dict[str, Any]:
    """The hardware that the figures belong to."""
    lines = _cpu_lines()
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    return {
        "cpu": next(_values(lines, "model name"), "") or platform.processor() or platform.machine(),
        "vectors": widest_vectors(next(_values(lines, "flags"), "").split()),
        "cores": psutil.cpu_count(),
        "memory": memory,
    }


def widest_vectors(flags: Sequence[str]) -> str | None:
    """The best of `_VECTORS` among the processor's flags; None where it has none of them, or no flags are told."""
    return next((name for name in _VECTORS if name in flags), None)


def _values(lines: Sequence[str], key: str) -> Iterator[str]:
    return (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key)


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []
