"""How the complete `embed` job grows in the bench: with workers, and with the corpus.

* Workers: the job in a process that may use w cores, with a Ray session of w CPUs started within, so that its one
  worker and all around it (tokenising, Ray, writing) really have one core. The same texts at every w, timed around
  `embed`; a tiny job before it is not counted. A chart of texts/s over workers comes beside the JSON.
* Memory: the job at n and at 10 n texts, each in a process and a Ray session of its own, sampled every two seconds. Two
  peaks: what driver, Ray and workers take together (proportional set size: shared memory, so Ray's object store, counts
  once), and what the largest worker process has for itself (resident set without what it shares).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig, EmbedResources
from ccp_ray.progress import say
from ccp_ray.session import machine_cpus, ray_session
from eval.plots import Line, line_chart
from jobs.benches.figures import Figure, interleaved, median, median_ratio, report
from jobs.benches.job import piece_rows
from jobs.benches.texts import Texts, write_texts
from jobs.usage import PeakMemory, largest_worker_bytes

_WARM_ROWS = 32
_MORE = 10
# What eval's page gives the classes of a chart; a file of its own needs them within.
_STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; --ink: #5a6672; --line: #e2e7ec; --c: #0072b2; }
@media (prefers-color-scheme: dark) { svg { --ink: #9eabb8; --line: #2a323b; --c: #3d9be9; } }
text { fill: var(--ink); } .grid, .axis { stroke: var(--line); fill: none; } .line { stroke: var(--c); fill: none;
stroke-width: 2; } .ref { stroke: var(--ink); fill: none; stroke-dasharray: 5 4; } .dot { fill: var(--c); }
"""


def workers_bench(source: str, texts: Texts, rounds: int, folder: Path) -> dict[str, Any]:
    """Texts/s at 1, 2, 4, … workers and as many as there are cores."""
    counts = worker_counts(machine_cpus())
    file = write_texts(texts, folder / "texts.parquet")
    warm = write_texts(Texts(texts.rows[:_WARM_ROWS], texts.read), folder / "warm.parquet")

    def run(count: int) -> Callable[[], float]:
        places = (source, str(warm), str(file), piece_rows(len(texts.rows), count), count)
        return lambda: _apart(_job_seconds, *places)

    measured = interleaved({str(count): run(count) for count in counts}, rounds, "workers")
    rates = {str(count): len(texts.rows) / median(measured, str(count)) for count in counts}
    figures = [Figure(f"{count} worker{'s' * (count != '1')}", rate, "texts/s") for count, rate in rates.items()]
    notes = [] if "2" in rates else ["one core: nothing to compare"]
    if "2" in rates:
        ratio = median_ratio(measured, "1", "2")
        figures.append(Figure("two workers on two cores / one on one", ratio, at_least=1.8))
    return report(figures, notes=notes, rates=rates, seconds=measured)


def memory_bench(source: str, texts: Texts, folder: Path) -> dict[str, Any]:
    """Peaks at a tenth of the texts and at all of them, in pieces of equal size."""
    few = max(1, len(texts.rows) // _MORE)
    rows = piece_rows(few, machine_cpus())
    peaks: dict[str, dict[str, int]] = {}
    for count in (few, len(texts.rows)):
        say(f"bench: memory, {count:,} texts")
        file = write_texts(Texts(texts.rows[:count], texts.read), folder / f"texts-{count}.parquet")
        peaks[str(count)] = _apart(_job_peaks, source, str(file), rows)
    small, large = peaks.values()
    figures = [Figure(f"{len(texts.rows):,} texts, all processes", large["all"] / 1e6, "MB")]
    for name, label in (("all", "all processes"), ("worker", "largest worker")):
        figures.append(Figure(f"{_MORE}x the texts, {label}", large[name] / small[name], at_most=1.1))
    return report(figures, piece_rows=rows, peak_bytes=peaks)


def worker_counts(cores: int) -> list[int]:
    """Powers of two below the number of cores, and that number."""
    return [*(1 << power for power in range(cores.bit_length()) if 1 << power < cores), cores]


def worker_chart(rates: Mapping[str, float]) -> str:
    """Texts/s over workers as an SVG file, beside what one worker times their number would be."""
    points = [(float(count), rate) for count, rate in rates.items()]
    ideal = [(count, count * points[0][1] / points[0][0]) for count, _ in points]
    lines = [Line("as many times one worker", ideal, None), Line("measured", points)]
    ticks = [count for count, _ in points]
    chart = line_chart("Embedding by workers", lines, "workers, a core each", "texts/s", from_zero=True, x_ticks=ticks)
    head, rest = chart.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{rest}\n'


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a process of its own, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _job_seconds(source: str, warm: str, texts: str, rows: int, cores: int) -> float:
    if hasattr(os, "sched_setaffinity"):  # macOS has none: there Ray's count alone holds the workers down
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    config = EmbedConfig(piece_rows=rows, resources=EmbedResources(workers=cores))
    with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder, ray_session(cpus=cores):
        embed(source, warm, f"{folder}/warm", config)
        started = time.perf_counter()
        embed(source, texts, f"{folder}/out", config)
        return time.perf_counter() - started


def _job_peaks(source: str, texts: str, rows: int) -> dict[str, int]:
    scratch = tempfile.TemporaryDirectory(prefix="ccp-ray-bench-")
    with scratch as folder, ray_session(), PeakMemory() as everything, PeakMemory(largest_worker_bytes) as worker:
        embed(source, texts, f"{folder}/out", EmbedConfig(piece_rows=rows))
    return {"all": everything.bytes, "worker": worker.bytes}
