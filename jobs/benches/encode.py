"""Texts/s of our encoder loop against sentence-transformers' `encode`: same machine, texts and weights, in turns.

* Ours: one Ray actor a core with one thread each, as a job starts them, model loaded. Timed from handing out the texts
  to having all vectors back in this process: tokenising, batching, encoding, and both ways through Ray's object store.
* Theirs: `SentenceTransformer.encode` in a process of its own, with torch's default number of threads and the model
  loaded. Timed around the call. Its defaults are fp32 and batches of 32. Its best batch size is looked for first,
  among `BATCHES`, at each precision. Beside it, with nothing promised, its own pool of processes
  (`start_multi_process_pool`), one a core with one thread each: what somebody gets who knows that threads share a
  small model badly.

Cosines are between each of our vectors, fp32 and bf16, and sentence-transformers' fp32 vector of the same text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ccp_ray.model_source import local_model
from ccp_ray.progress import say
from ccp_ray.session import machine_cpus, ray_session
from jobs.benches.figures import Figure, interleaved, median, median_ratio, report
from jobs.benches.workers import Workers, gathered, shares

BATCHES = (8, 16, 32, 64, 128, 256)
_DEFAULT_BATCH = 32
_PIECES_A_WORKER = 4
_ASKED = {"fp32": 0.9999, "bf16": 0.999}
_DEFAULTS = "sentence-transformers, its defaults"

Precision = Literal["fp32", "bf16"]


def encode_bench(source: str, texts: Sequence[str], rounds: int, workers: int | None = None) -> dict[str, Any]:
    """The figures. source: an encoder that both load; workers: of ours, and processes of their pool (None: the cores).

    bf16 only where the hardware has it.
    """
    from ccp_ray.hardware import native_bf16, resolve

    precisions: list[Precision] = ["fp32", "bf16"] if native_bf16() else ["fp32"]
    notes = [] if native_bf16() else ["bf16 is not native on this hardware: not measured"]
    workers = workers or machine_cpus()
    with Theirs(source, texts) as theirs, ray_session():
        ours = {precision: Workers(workers, source, precision) for precision in precisions}
        pieces = shares(texts, _PIECES_A_WORKER * workers)
        vectors = {name: gathered(each.encode(pieces)[0], len(texts)) for name, each in ours.items()}
        reference_ND = theirs.vectors("fp32", _DEFAULT_BATCH)
        batches = {precision: best_batch(theirs, precision) for precision in precisions}
        for precision in precisions:
            theirs.start_pool(precision, workers)
        measured = interleaved(_contenders(ours, pieces, theirs, batches), rounds, "encode")
    cosines = {precision: lowest_cosine(found_ND, reference_ND) for precision, found_ND in vectors.items()}
    figures = _figures(measured, precisions, resolve("auto"), len(texts))
    figures += [Figure(f"lowest cosine, {name}", value, at_least=_ASKED[name]) for name, value in cosines.items()]
    notes += [f"best batch of sentence-transformers, {name}: {found[0]}" for name, found in batches.items()]
    tried = {precision: found[1] for precision, found in batches.items()}
    return report(figures, notes=notes, workers=workers, batch_seconds=tried, seconds=measured)


def _contenders(
    ours: dict[Precision, Workers], pieces: list[list[str]], theirs: Theirs, batches: dict[Precision, Any]
) -> dict[str, Callable[[], float]]:
    contenders: dict[str, Callable[[], float]] = {_DEFAULTS: lambda: theirs.seconds("fp32", _DEFAULT_BATCH)}
    for name, workers in ours.items():
        batch = batches[name][0]
        contenders[f"ours, {name}"] = lambda workers=workers: workers.encode(pieces)[1]  # type: ignore[misc]
        contenders[f"theirs, {name}"] = lambda name=name, batch=batch: theirs.seconds(name, batch)  # type: ignore[misc]
        contenders[f"pool, {name}"] = lambda name=name, batch=batch: theirs.pool_seconds(name, batch)  # type: ignore[misc]
    return contenders


def _figures(
    measured: list[dict[str, float]], precisions: Sequence[Precision], usual: Precision, texts: int
) -> list[Figure]:
    figures = [Figure(_DEFAULTS, texts / median(measured, _DEFAULTS), "texts/s")]
    for name in precisions:
        ours, theirs, pool = f"ours, {name}", f"theirs, {name}", f"pool, {name}"
        figures += [
            Figure(ours, texts / median(measured, ours), "texts/s"),
            Figure(f"ours / its best batch size, {name}", median_ratio(measured, theirs, ours), at_least=1.3),
            Figure(f"ours / its pool of processes, {name}", median_ratio(measured, pool, ours)),
        ]
    ratio = median_ratio(measured, _DEFAULTS, f"ours, {usual}")
    return [*figures, Figure(f"ours by default ({usual}) / its defaults", ratio, at_least=2.0)]


def best_batch(theirs: Theirs, precision: Precision) -> tuple[int, dict[str, float]]:
    """The fastest of `BATCHES`, and the seconds of each."""
    say(f"bench: encode, sentence-transformers' best batch size, {precision}")
    seconds = {batch: theirs.seconds(precision, batch) for batch in BATCHES}
    return min(seconds, key=seconds.__getitem__), {str(batch): value for batch, value in seconds.items()}


def lowest_cosine(found_ND: NDArray[np.float32], reference_ND: NDArray[np.float32]) -> float:
    """The smallest cosine of two vectors of the same row, in float64."""
    a_ND, b_ND = found_ND.astype(np.float64), reference_ND.astype(np.float64)
    lengths_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    return float(((a_ND * b_ND).sum(axis=1) / lengths_N).min())


class Theirs:
    """sentence-transformers in a process of its own. Models load at the first call of each precision."""

    def __init__(self, source: str, texts: Sequence[str]) -> None:
        self._process = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_hold, initargs=(str(local_model(source)), list(texts))
        )

    def __enter__(self) -> Theirs:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.submit(_stop_pools).result()
        self._process.shutdown()

    def vectors(self, precision: Precision, batch: int) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._process.submit(_vectors, precision, batch).result()
        return found

    def seconds(self, precision: Precision, batch: int) -> float:
        return self._process.submit(_seconds, precision, batch).result()

    def start_pool(self, precision: Precision, processes: int) -> None:
        self._process.submit(_start_pool, precision, processes).result()

    def pool_seconds(self, precision: Precision, batch: int) -> float:
        return self._process.submit(_pool_seconds, precision, batch).result()


_held: dict[str, Any] = {}  # of sentence-transformers' process


def _hold(folder: str, texts: list[str]) -> None:
    # Ray's session sets it for its workers; here it would take the tokenizer's threads away.
    os.environ.pop("TOKENIZERS_PARALLELISM", None)
    _held.update(folder=folder, texts=texts, models={}, pools={})


def _model(precision: Precision) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    if precision not in _held["models"]:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model = SentenceTransformer(_held["folder"], device="cpu", model_kwargs={"dtype": dtype})
        model.encode(_held["texts"][:8])  # allocates
        _held["models"][precision] = model
    return _held["models"][precision]


def _vectors(precision: Precision, batch: int) -> Any:
    return _model(precision).encode(_held["texts"], batch_size=batch, show_progress_bar=False)


def _seconds(precision: Precision, batch: int) -> float:
    model = _model(precision)
    started = time.perf_counter()
    model.encode(_held["texts"], batch_size=batch, show_progress_bar=False)
    return time.perf_counter() - started


def _start_pool(precision: Precision, processes: int) -> None:
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # its processes take it over
    try:
        _held["pools"][precision] = _model(precision).start_multi_process_pool(["cpu"] * processes)
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    _pool_seconds(precision, _DEFAULT_BATCH)  # until its models are loaded


def _pool_seconds(precision: Precision, batch: int) -> float:
    model, pool = _model(precision), _held["pools"][precision]
    started = time.perf_counter()
    model.encode(_held["texts"], batch_size=batch, pool=pool, show_progress_bar=False)
    return time.perf_counter() - started


def _stop_pools() -> None:
    for precision, pool in _held["pools"].items():
        _held["models"][precision].stop_multi_process_pool(pool)
