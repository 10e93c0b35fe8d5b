"""What a Ray Train worker does in fine-tuning: train from the last checkpoint, then rank 0 exports the best step."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccp_ray.board import teller
from ccp_ray.encoder_config import EncoderConfig
from ccp_ray.finetune_config import FinetuneConfig, FinetuneSettings, StartConfig
from ccp_ray.ledger import Ledger, put_folder
from ccp_ray.pair_data import PairData, Readers
from ccp_ray.storage import open_store
from ccp_ray.training_worker import asks_ray, commit_export, work_in_group

if TYPE_CHECKING:
    from ccp_ray.encoder import Encoder
    from ccp_ray.finetune import Finetuning

TRAIN, DEV = "train", "dev"  # the pieces in the ledger


def work(arguments: dict[str, Any]) -> None:
    """The training function: config (JSON), steps, and what `training_job.train` adds."""
    config = FinetuneConfig.model_validate_json(arguments["config"])
    work_in_group(arguments, config.groups_per_step, lambda: _train_and_export(config, arguments))


def load_encoders(config: FinetuneSettings) -> dict[str, Encoder]:
    """The encoders to train, by role. Raises UsageError for one that cannot be trained."""
    from ccp_ray.encoder import load_trainable

    return {
        role: load_trainable(start.source, _as_config(start), Path(), False, config.seed, own_prompts=True)
        for role, start in config.starts().items()
    }


def open_pairs(config: FinetuneConfig, output: str, readers: Readers) -> tuple[PairData, PairData | None]:
    """Training and dev questions, as the driver wrote them."""
    store = open_store(output)
    ledger = Ledger(store)
    train = PairData(store, ledger.read(TRAIN), readers)
    return train, PairData(store, ledger.read(DEV), readers) if config.dev_data else None


def _as_config(start: StartConfig) -> EncoderConfig:
    return EncoderConfig(source=start.source, pooling=start.pooling)


def _train_and_export(config: FinetuneConfig, arguments: dict[str, Any]) -> None:
    from ccp_ray.finetune import Finetuning

    output, tell = arguments["output"], teller(arguments["board"])
    encoders = load_encoders(config)
    data = open_pairs(config, output, readers_of(config, encoders))
    run = Finetuning(config, arguments["steps"], data, encoders, output, asks_ray(), tell=tell)
    started = time.monotonic()
    run.run(report=tell)
    _export(run, output, time.monotonic() - started)


def readers_of(config: FinetuneConfig, encoders: dict[str, Encoder]) -> Readers:
    """How the encoders read each side's texts."""
    first = next(iter(encoders.values()))
    question, passage = (encoders.get(side, first).reader for side in ("question", "passage"))
    return Readers(
        question.narrowed(config.question_tokens, config.question_prompt),
        passage.narrowed(config.passage_tokens, config.passage_prompt),
    )


def _export(run: Finetuning, output: str, seconds: float) -> None:
    """Gather the best step's fp32 weights and commit the encoder folders (rank 0)."""
    from ccp_ray.master_weights import full_precision_weights, set_weights

    best = run.load_best()
    weights = full_precision_weights(run.engine)
    if run.rank:
        return
    store, files = open_store(output), []
    set_weights(run.engine.module, weights)
    for role, encoder in run.encoders.items():
        as_trained(role, encoder, run.config)
        encoder.model = run.engine.module.models[role]
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            encoder.save(Path(scratch))
            files += put_folder(store, Path(scratch), folder_of(role, run.config))
    dev = {row["step"]: row["dev"] for row in run.rows if "dev" in row}
    summary: dict[str, Any] = {"trained_steps": run.steps, "best_step": best, "similarity": run.config.similarity}
    if dev:
        summary |= {"dev": dev[best], "dev_before": dev[0]}
    commit_export(run, store, files, summary, seconds)


def folder_of(role: str, config: FinetuneSettings) -> str:
    """Where the encoder's files are in the output."""
    return "" if config.tied else f"{role}/"


def as_trained(role: str, encoder: Encoder, config: FinetuneSettings) -> None:
    """The folder's settings are those of training: length, prompt, and unit vectors where cosines were compared.

    An encoder of both sides can have one default prompt only: it has one where both sides' are the same.
    """
    from ccp_ray.sentence_modules import Normalize, SentenceModules

    lengths = {"question": config.question_tokens, "passage": config.passage_tokens}
    prompts = {"question": config.question_prompt, "passage": config.passage_prompt}
    sides = [role] if role in lengths else list(lengths)
    common = {prompts[side] for side in sides}
    prompt = common.pop() if len(common) == 1 else ""
    encoder.reader = encoder.reader.narrowed(max(lengths[side] for side in sides), prompt)
    encoder.modules = SentenceModules(encoder.pooling, (Normalize(),) * (config.similarity == "cosine"))
