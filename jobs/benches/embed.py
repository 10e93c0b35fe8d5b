"""The embed part of the bench, in sections that can be run and kept apart; what each measures is said in its module.

encode     the encoder loop against sentence-transformers             jobs.benches.encode
job        the complete job against the bare loop; S3 against local   jobs.benches.job
workers    texts/s over workers, a core each                          jobs.benches.scaling
memory     peaks at n and 10 n texts                                  jobs.benches.scaling
restart    what is left of a plan of many pieces                      jobs.benches.restart
status     what `ccp-ray status` takes of such an output              jobs.benches.status
gpu        XLM-R base on a GPU; only where there is one               jobs.benches.gpu
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccp_ray.errors import UsageError
from jobs.benches.encode import encode_bench
from jobs.benches.figures import BenchOptions
from jobs.benches.job import job_bench
from jobs.benches.restart import restart_bench
from jobs.benches.scaling import memory_bench, workers_bench
from jobs.benches.status import status_bench
from jobs.benches.texts import Texts, bench_texts

SECTIONS = ("encode", "job", "workers", "memory", "restart", "status", "gpu")
_TEXTS = {"encode": 8_000, "job": 200_000, "workers": 24_000, "memory": 200_000, "gpu": 100_000}


def embed_bench(options: BenchOptions, done: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The figures of every section by its name; `done` gets those so far after each, so that none is lost.

    Raises UsageError for an unknown section, and for `gpu` where it is asked for and there is none.
    """
    import torch

    asked, gpu = options.chosen(SECTIONS), torch.cuda.is_available()
    if "gpu" in asked and not gpu:
        raise UsageError("--section gpu: torch sees no GPU here")
    measured: dict[str, Any] = {}
    for name in asked or [name for name in SECTIONS if gpu or name != "gpu"]:
        with tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder:
            measured[name] = _section(name, options, Path(folder))
        done(measured)
    return measured


def _section(name: str, options: BenchOptions, folder: Path) -> dict[str, Any]:
    if name == "restart":
        return restart_bench(options.pieces, options.rounds)
    if name == "status":
        return status_bench(options.pieces, options.rounds)
    texts = bench_texts(options.documents, options.texts or _TEXTS[name], folder / "generated")
    return _measured(name, options, texts, folder) | texts.describe(options.documents)


def _measured(name: str, options: BenchOptions, texts: Texts, folder: Path) -> dict[str, Any]:
    if name == "encode":
        return encode_bench(options.encoder, texts.texts, options.rounds)
    if name == "job":
        return job_bench(options.encoder, texts, options.rounds, folder)
    if name == "workers":
        return workers_bench(options.encoder, texts, options.rounds, folder)
    if name == "memory":
        return memory_bench(options.encoder, texts, folder)
    from jobs.benches.gpu import gpu_bench

    return gpu_bench(options.encoder, texts.texts, options.rounds)
