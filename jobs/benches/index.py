"""The index part of the bench: the `index` job in a running Ray session against plain FAISS in one process.

Same work: read the same vectors, put them to unit length, train and add, write the index; one shard, one process, one
thread each. Ours is timed from call to return with one task, so scheduling, the rows' table, checksums of what is read
and written, fsync and the ledger are in it. Plain FAISS is timed twice: with the same checksums and fsync ("same work",
what the promise is about), and bare, as a script would have it. Both train on as many rows as the job is told to; the
job then also measures its recall, here with one query, which plain FAISS does not. autofaiss builds from the same file,
where it is installed (`pip install --no-deps autofaiss embedding_reader fire termcolor`: its own pins are older).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ccp_ray.artifact import Artifact
from ccp_ray.config import build_config
from ccp_ray.index import IndexConfig, index, unit
from ccp_ray.session import ray_session
from jobs.benches.artifacts import random_vectors, write_embeddings
from jobs.benches.figures import BenchOptions, Figure, interleaved, median, median_ratio, report

_OURS, _SAME, _BARE, _AUTO = "index job", "plain FAISS, same work", "plain FAISS, bare", "autofaiss"
_CODE_DIMENSIONS = 8  # a byte of a product quantiser stands for so many


def index_bench(options: BenchOptions) -> dict[str, Any]:
    """options.rows random vectors of options.dimensions; options.factories: none for Flat and one IVF-PQ."""
    factories = options.factories or ["Flat", ivf_pq(options.rows, options.dimensions)]
    figures: list[Figure] = []
    measured: dict[str, Any] = {}
    notes = [] if _autofaiss() else ["autofaiss: not installed here"]
    spawned = get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="ccp-ray-bench-") as folder,
        ProcessPoolExecutor(1, mp_context=spawned) as pool,
        ray_session(),
    ):
        vectors = random_vectors(options.rows, options.dimensions)
        source = write_embeddings(f"{folder}/embeddings", [vectors])
        for factory in factories:
            contenders = _contenders(source, factory, Path(folder), pool)
            notes += _warmed(contenders, factory)
            rounds = interleaved(contenders, options.rounds, f"index, {factory}")
            measured[factory] = rounds
            figures += _figures(rounds, factory)
    return report(figures, rows=options.rows, dimensions=options.dimensions, notes=notes, seconds=measured)


def ivf_pq(rows: int, dimensions: int) -> str:
    """4 sqrt(rows) lists (FAISS' rule of thumb), a byte for eight dimensions."""
    return f"IVF{max(1, round(4 * math.sqrt(rows)))},PQ{max(1, dimensions // _CODE_DIMENSIONS)}"


def _contenders(
    source: Artifact, factory: str, folder: Path, pool: ProcessPoolExecutor
) -> dict[str, Callable[[], float]]:
    file = str(folder / "embeddings/vectors/00000.npy")
    contenders: dict[str, Callable[[], float]] = {
        _OURS: lambda: _job(source, factory, folder / "index"),
        _SAME: lambda: pool.submit(plain_build, file, factory, str(folder), True).result(),
        _BARE: lambda: pool.submit(plain_build, file, factory, str(folder), False).result(),
    }
    if _autofaiss():
        contenders[_AUTO] = lambda: pool.submit(autofaiss_build, file, factory, str(folder)).result()
    return contenders


def _warmed(contenders: dict[str, Callable[[], float]], factory: str) -> list[str]:
    """Run each once, which loads libraries, and the file into the system's cache. autofaiss may refuse: it is left out.

    Returns a note of why.
    """
    theirs = contenders.pop(_AUTO, None)
    for run in contenders.values():
        run()
    if theirs is None:
        return []
    try:
        theirs()
    except Exception as error:  # somebody else's code, which raises what it likes
        return [f"{_AUTO}, {factory}: {type(error).__name__}: {error}"]
    contenders[_AUTO] = theirs
    return []


def _job(source: Artifact, factory: str, output: Path) -> float:
    shutil.rmtree(output, ignore_errors=True)
    rows = source.summary["rows"]
    settings: dict[str, Any] = {"shard_rows": rows}
    if factory != "Flat":
        settings |= {"factory": factory, "train_rows": trained_rows(rows), "recall_queries": 1}
        settings["resources"] = {"train_cpus": 1}
    config = build_config(IndexConfig, settings)
    started = time.perf_counter()
    index(source.uri, str(output), config)
    return time.perf_counter() - started


def trained_rows(rows: int) -> int:
    """Half of the rows, at most 262,144: 40 for each of the lists of `ivf_pq` where there are 100,000 rows."""
    return min(rows // 2, 262_144)


def plain_build(file: str, factory: str, folder: str, checked: bool) -> float:
    """Seconds to build one index with FAISS alone, in the calling process. checked: hash and sync as our job does."""
    import faiss

    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    data = Path(file).read_bytes()
    if checked:
        hashlib.sha256(data).hexdigest()
    vectors_ND = unit(np.load(io.BytesIO(data), allow_pickle=False))
    built = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not built.is_trained:
        chosen = np.random.default_rng(0).choice(len(vectors_ND), trained_rows(len(vectors_ND)), replace=False)
        built.train(vectors_ND[np.sort(chosen)])
    built.add(vectors_ND)
    output = Path(folder) / "plain.faiss"
    if checked:
        written = faiss.serialize_index(built).tobytes()
        hashlib.sha256(written).hexdigest()
        with open(output, "wb") as out:
            out.write(written)
            out.flush()
            os.fsync(out.fileno())
    else:
        faiss.write_index(built, str(output))
    seconds = time.perf_counter() - started
    output.unlink()
    return seconds


def autofaiss_build(file: str, factory: str, folder: str) -> float:
    """Seconds that autofaiss takes for the same factory string, from the same vectors, as long as they come.

    It refuses product quantisation with inner products, so that is built by distance. Its search for the best way of
    searching is left out, and FAISS writes the index: its own writer fails after an exact one (2.18).
    """
    import autofaiss  # type: ignore[import-not-found]
    import faiss

    started = time.perf_counter()
    built, _ = autofaiss.build_index(
        embeddings=str(Path(file).parent),
        index_key=factory,
        index_param="",
        metric_type="l2" if "PQ" in factory else "ip",
        nb_cores=1,
        save_on_disk=False,
        verbose=30,
    )
    faiss.write_index(built, f"{folder}/auto.faiss")
    return time.perf_counter() - started


def _autofaiss() -> bool:
    return importlib.util.find_spec("autofaiss") is not None


def _figures(rounds: list[dict[str, float]], factory: str) -> list[Figure]:
    figures = [Figure(f"{factory}: {_OURS}", median(rounds, _OURS), "s")]
    figures.append(Figure(f"{factory}: {_OURS} / {_SAME}", median_ratio(rounds, _OURS, _SAME), at_most=1.1))
    others = [name for name in (_BARE, _AUTO) if name in rounds[0]]
    return figures + [Figure(f"{factory}: {_OURS} / {name}", median_ratio(rounds, _OURS, name)) for name in others]
