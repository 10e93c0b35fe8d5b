"""What a Ray Train worker does in pretraining: train from the last checkpoint, then rank 0 exports the encoder."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccp_ray.board import teller
from ccp_ray.corpus import Corpus
from ccp_ray.ledger import put_folder
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.storage import open_store
from ccp_ray.training_worker import asks_ray, commit_export, work_in_group

if TYPE_CHECKING:
    from ccp_ray.pretrain import Pretraining


def work(arguments: dict[str, Any]) -> None:
    """The training function: config (JSON), corpus, source (URIs), and what `training_job.train` adds."""
    config = PretrainConfig.model_validate_json(arguments["config"])
    work_in_group(arguments, config.groups_per_step, lambda: _train_and_export(config, arguments))


def _train_and_export(config: PretrainConfig, arguments: dict[str, Any]) -> None:
    from ccp_ray.encoder import load_trainable
    from ccp_ray.pretrain import Pretraining

    corpus, tell = Corpus.open(arguments["corpus"]), teller(arguments["board"])
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        tokenizer = corpus.tokenizer_folder(Path(scratch))
        encoder = load_trainable(arguments["source"], config.encoder, tokenizer, config.mlm.weight > 0, config.seed)
        run = Pretraining(config, corpus, encoder, arguments["output"], asks_ray(), tell=tell)
        started = time.monotonic()
        run.run(report=tell)
        _export(run, arguments["output"], time.monotonic() - started)


def _export(run: Pretraining, output: str, seconds: float) -> None:
    """Gather the fp32 weights and commit the encoder folder (rank 0)."""
    from ccp_ray.master_weights import full_precision_weights, set_weights

    weights = full_precision_weights(run.engine)
    if run.rank:
        return
    store = open_store(output)
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        set_weights(run.engine.module, weights)
        run.encoder.model = run.engine.module.model.base_model
        run.encoder.save(Path(scratch))
        files = put_folder(store, Path(scratch))
    commit_export(run, store, files, {"trained_steps": run.steps}, seconds)
