"""What a Ray Train worker does in pretraining: train from the last checkpoint, then rank 0 exports the encoder."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ccp_ray.corpus import Corpus
from ccp_ray.errors import CcpError
from ccp_ray.ledger import Entry, Ledger, put_bytes, put_folder
from ccp_ray.pretrain_config import PretrainConfig, even_world
from ccp_ray.storage import open_store

EXPORT = "encoder"  # the piece in the ledger


def work(arguments: dict[str, Any]) -> None:
    """The training function: config (JSON), corpus, source, output (URIs), board (an actor), threads.

    A CcpError goes to the board and ends the run; what else escapes makes Ray Train restart the workers.
    """
    import ray
    import torch
    import torch.distributed as dist

    from ccp_ray.worker_group import join_even_group

    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # a restart cannot mend what the last attempt named
    config = PretrainConfig.model_validate_json(arguments["config"])
    if not join_even_group(even_world(config.groups_per_step, dist.get_world_size())):
        return
    if not torch.cuda.is_available():
        torch.set_num_threads(arguments["threads"])
    try:
        _train_and_export(config, arguments)
    except CcpError as error:
        ray.get(board.fail.remote(type(error).__name__, str(error)))
        raise


def _train_and_export(config: PretrainConfig, arguments: dict[str, Any]) -> None:
    import torch.distributed as dist
    from ray.train import get_context, get_preemption_info

    from ccp_ray.encoder import load_trainable
    from ccp_ray.pretrain import Pretraining

    corpus, board = Corpus.open(arguments["corpus"]), arguments["board"]
    # Asking is a barrier of all workers that Ray started, so with one left out nobody can ask.
    ask = (
        (lambda: get_preemption_info() is not None) if get_context().get_world_size() == dist.get_world_size() else None
    )
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        tokenizer = corpus.tokenizer_folder(Path(scratch))
        encoder = load_trainable(arguments["source"], config.encoder, tokenizer, config.mlm.weight > 0, config.seed)
        run = Pretraining(config, corpus, encoder, arguments["output"], ask, tell=board.post.remote)
        started = time.monotonic()
        run.run(report=board.post.remote)
        _export(run, arguments["output"], config, time.monotonic() - started)
        dist.barrier()


def _export(run: Any, output: str, config: PretrainConfig, seconds: float) -> None:
    """Gather the weights and commit the encoder folder (rank 0)."""
    import deepspeed

    stage3 = config.deepspeed.zero_stage == 3
    with deepspeed.zero.GatheredParameters(list(run.engine.module.parameters()), enabled=stage3):
        if run.rank:
            return
        store = open_store(output)
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            run.encoder.model = run.engine.module.model.base_model
            run.encoder.save(Path(scratch))
            files = put_folder(store, Path(scratch))
    text = "".join(json.dumps(row) + "\n" for row in run.rows)
    files.append(put_bytes(store, "metrics.jsonl", text.encode()))
    training = [row for row in run.rows if "probe" not in row]
    problems = [problem for row in run.rows for problem in row.get("problems", [])]
    summary = {
        "trained_steps": config.steps,
        "contrastive": training[-1]["contrastive"],
        "accuracy": training[-1]["accuracy"],
        "padding_efficiency": sum(row["padding_efficiency"] for row in training) / len(training),
        "problems": problems,
    }
    measured = {
        "seconds": seconds,
        "workers": run.world,
        "zero_stage": config.deepspeed.zero_stage,
        "tokens_per_s": run.tokens_per_s(),
    }
    Ledger(store).commit(EXPORT, Entry(files=files, info={"summary": summary, "measured": measured}))
