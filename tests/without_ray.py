"""Jobs without Ray's workers, for tests that ask what a job makes and not how it is spread.

Starting Ray Train takes 10 to 15 s of a CPU, six processes that each import Ray, pandas and torch; an embedding takes
8 s. `test_pretrain.py`, `test_finetune.py`, `test_embed.py`, `test_pieces.py` and `test_index.py` run them on Ray.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from ranks import Ranks, wait_until

from ccp_ray import errors
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embed_plan import Piece
from ccp_ray.errors import CcpError
from ccp_ray.kept_checkpoints import checkpoint_name
from ccp_ray.ledger import Ledger
from ccp_ray.pieces import Task
from ccp_ray.progress import say
from ccp_ray.storage import open_store
from ccp_ray.training_config import TrainingConfig
from ccp_ray.training_job import plan_workers

Told = tuple[list[Any], tuple[str, str] | None]
_JOBS = ("ccp_ray.pretrain_job.train", "ccp_ray.finetune_job.train")


class KilledError(Exception):
    """All workers were killed."""


@contextlib.contextmanager
def forked_training(*, killed: bool = False) -> Iterator[None]:
    """Trainings run in forked processes. killed: SIGKILL to all of them when a checkpoint is committed."""

    def train(
        name: str,
        work: Callable[..., None],
        config: TrainingConfig,
        steps: int,
        output: str,
        arguments: Mapping[str, Any],
    ) -> None:
        workers, _ = plan_workers(config, cpus=2, gpus=0)
        assert isinstance(workers, int)
        ranks = Ranks(workers, _train, work.__module__, config, {**arguments, "output": output, "board": None})
        if killed:
            checkpoints = Ledger(open_store(output), "_ledger/checkpoints")
            assert wait_until(lambda: bool(checkpoints.committed()))
            ranks.kill()
            assert max(checkpoints.committed()) < checkpoint_name(steps), "training ended before it was killed"
            raise KilledError
        said, failure = ranks.results()[0]
        for line in said:
            if isinstance(line, str):
                say(f"{name}: {line}")
        if failure is not None:
            raise getattr(errors, failure[0])(failure[1])

    with pytest.MonkeyPatch.context() as patch:
        for job in _JOBS:
            patch.setattr(job, train)
        yield


def _train(rank: int, world: int, worker: str, config: TrainingConfig, arguments: dict[str, Any]) -> Told:
    """What a worker tells, and the error that ended it; nothing is asked of Ray."""
    os.chdir("/")  # Ray's workers too are not in the driver's folder
    module, said = importlib.import_module(worker), list[Any]()
    vars(module).update(asks_ray=lambda: None, teller=lambda board: said.append)
    try:
        module._train_and_export(config, arguments)
    except CcpError as error:
        return said, (type(error).__name__, str(error))
    return said, None


@contextlib.contextmanager
def embedding_here() -> Iterator[None]:
    """Embeddings are made in this process: the operators of their stream, one after the other."""
    import torch

    threads = torch.get_num_threads()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ccp_ray.embed._stream", _stream)
            yield
    finally:
        torch.set_num_threads(threads)  # `Encode` sets its own


@contextlib.contextmanager
def pieces_here(*modules: str) -> Iterator[dict[str, float]]:
    """Pieces are made in this process, one after the other. modules: whose jobs start no Ray for them.

    Yields the GPUs that each stage reserves for a task.
    """
    reserved: dict[str, float] = {}

    def stream(name: str, items: list[dict[str, Any]], task: Task, cpus: float, gpus: float) -> Iterator[Any]:
        reserved[name.partition("_")[2]] = gpus
        return map(task, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ccp_ray.pieces._stream", stream)
        for module in modules:
            patch.setattr(f"{module}.ray_session", contextlib.nullcontext)
        yield reserved


def _stream(todo: list[Piece], encoder: str, output: str, config: EmbedConfig) -> Iterator[dict[str, Any]]:
    from ccp_ray.embed_stream import Commit, Encode, Tokenise

    actor = (encoder, config.model_dump_json(), output)
    tokenise, encode, commit = Tokenise(*actor), Encode(*actor), Commit(output)
    for piece in todo:
        yield commit(encode(tokenise(piece._asdict())))


@contextlib.contextmanager
def indexing_here(gpus: int = 0) -> Iterator[dict[str, float]]:
    """Indexes are made in this process, as on a cluster with so many GPUs. Yields what `pieces_here` does."""
    import faiss

    threads = faiss.omp_get_max_threads()
    try:
        with pytest.MonkeyPatch.context() as patch, pieces_here("ccp_ray.index") as reserved:
            patch.setattr("ccp_ray.index_gpu.cluster_gpus", lambda: gpus)
            for module in ("index", "index_merge"):
                patch.setattr(f"ccp_ray.{module}.largest_node", {"CPU": 1.0, "memory": 1e12}.__getitem__)
            yield reserved
    finally:
        faiss.omp_set_num_threads(threads)  # tasks set their own
