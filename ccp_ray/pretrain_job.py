"""Pretraining as a job: corpus in, encoder out, on Ray Train with DeepSpeed.

The driver starts a `TorchTrainer` whose workers run `Pretraining`. Checkpoints, metrics and the encoder go to the
output's store from the workers; the driver shows progress and writes the manifest. Ray Train restarts the
workers from the last checkpoint when one dies, and a new driver does the same from the store alone.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccp_ray import errors
from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_artifact, open_output
from ccp_ray.config import semantic
from ccp_ray.corpus import Corpus
from ccp_ray.errors import CcpError, DataError, UsageError
from ccp_ray.ledger import Entry, Ledger, put_bytes, put_folder
from ccp_ray.model_source import cache_folder, local_model, model_reference
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.progress import Meter, say
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store
from ccp_ray.telemetry import Telemetry
from ccp_ray.tokenizer import tokenizer_fingerprint

_EXPORT = "encoder"


def initial_encoder(corpus: str, output: str, config: PretrainConfig) -> Artifact:
    """Write the untrained encoder that `pretrain` would start from: the baseline of every comparison."""
    source = open_artifact(corpus, "corpus")
    request = Request(
        kind="encoder",
        config={"seed": config.seed, "encoder": config.encoder.model_dump(mode="json")},
        inputs=[source.ref("corpus")],
    )
    target = open_output(output, request)
    if isinstance(target, Artifact):
        return target
    from ccp_ray.encoder import write_untrained

    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        folder = Path(scratch, "encoder")
        tokenizer = Corpus.open(corpus).tokenizer_folder(Path(scratch, "tokenizer"))
        write_untrained(folder, config.encoder.architecture, tokenizer, config.encoder.pooling or "mean", config.seed)
        return target.finish(put_folder(target.store, folder), {"trained_steps": 0})


def pretrain(corpus: str, output: str, config: PretrainConfig | None = None) -> Artifact:
    """Train an encoder on a corpus artifact. Returns the finished encoder artifact, a plain Hugging Face folder.

    Raises UsageError or DataError before anything is written where the corpus and the configuration do not fit;
    CcpError naming the step where training diverged or collapsed (the last checkpoint stays).
    """
    config = config or PretrainConfig()
    source = open_artifact(corpus, "corpus")
    _check_languages(source, config)
    starting = _starting_point(source, config)
    inputs = [source.ref("corpus")] + ([starting] if starting else [])
    target = open_output(output, Request(kind="encoder", config=semantic(config), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    ledger = Ledger(target.store)
    with ray_session():
        if _EXPORT not in ledger.committed():
            _train(config, source, starting, target)
    entry = ledger.read(_EXPORT)
    return target.finish(entry.files, entry.info["summary"], entry.info["measured"])


def plan_workers(config: PretrainConfig, cpus: int, gpus: int) -> tuple[int, bool]:
    """(workers, whether each has a GPU). Raises UsageError for no GPU, and groups that cannot be shared out evenly."""
    use_gpu = gpus > 0 if config.resources.gpu is None else config.resources.gpu
    most = gpus if use_gpu else min(2, max(1, cpus // config.resources.cpus_per_worker))
    workers = config.resources.workers
    if workers is None and not most:
        raise UsageError("resources.gpu=true, but the cluster has no GPU; set resources.workers to wait for some")
    if workers is None:
        workers = max(n for n in range(1, most + 1) if config.groups_per_step % n == 0)
    if config.groups_per_step % workers:
        raise UsageError(f"groups_per_step={config.groups_per_step} must be a multiple of resources.workers={workers}")
    return workers, use_gpu


def _check_languages(corpus: Artifact, config: PretrainConfig) -> None:
    known = corpus.summary["languages"]
    for lang in config.languages or known:
        if lang not in known:
            raise UsageError(f"languages: {lang!r} is not in the corpus (it has {', '.join(sorted(known))})")
        have = known[lang]["train_sentences"]
        if have < config.pairs_per_group:
            raise DataError(
                f"language {lang!r} has {have} training sentences, a group needs {config.pairs_per_group}; "
                "add documents, leave it out with languages=[…], or make groups smaller"
            )
    _check_bank({lang: known[lang]["train_sentences"] for lang in config.languages or known}, config)


def _check_bank(sentences: Mapping[str, int], config: PretrainConfig) -> None:
    """A ring larger than its corpus holds the same sentences twice or more: copies, not negatives."""
    if config.bank.kind == "shared":
        sentences = {"all together": sum(sentences.values())}
    for lang, have in sentences.items():
        if config.bank.size > have:
            raise UsageError(
                f"bank.size={config.bank.size} is larger than the corpus: language {lang!r} has {have} training "
                f"sentences; set bank.size={have} or less, leave the language out with languages=[…], or add documents"
            )


def starting_source(corpus: Artifact, config: PretrainConfig) -> str | None:
    """The encoder to start from: as configured, else the one whose tokenizer the corpus took; None: from scratch."""
    given = (ref.uri for ref in corpus.inputs if ref.role == "tokenizer")
    return config.encoder.source or next(given, None)


def _starting_point(corpus: Artifact, config: PretrainConfig) -> InputRef | None:
    source = starting_source(corpus, config)
    if source is None:
        return None
    from ccp_ray.encoder import load_tokenizer  # torch only where an encoder is given

    folders = (Corpus.open(corpus.uri).tokenizer_folder(cache_folder()), local_model(source))
    if len({tokenizer_fingerprint(load_tokenizer(folder)) for folder in folders}) > 1:
        raise UsageError(
            f"encoder.source {source}: its tokenizer is not the one the corpus was made with; "
            f"prepare the corpus again with tokenizer.source={source}"
        )
    return model_reference("encoder", source)


def _train(config: PretrainConfig, corpus: Artifact, starting: InputRef | None, output: Output) -> None:
    import ray
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ccp_ray.engine import communication_note

    resources = ray.cluster_resources()
    workers, use_gpu = plan_workers(config, int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    where = "GPU, nccl" if use_gpu else f"CPU, {communication_note(config.deepspeed)}"
    shape = f"ZeRO {config.deepspeed.zero_stage}, {config.deepspeed.precision}"
    say(f"pretrain: {workers} worker{'s' * (workers > 1)}, {shape}, {where}")
    board = ray.remote(num_cpus=0)(Board).remote()
    arguments = {
        "config": config.model_dump_json(),
        "corpus": corpus.uri,
        "source": starting.uri if starting else None,
        "output": output.uri,
        "board": board,
        "threads": config.resources.cpus_per_worker,
    }
    with tempfile.TemporaryDirectory(prefix="ccp-ray-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config=arguments,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": config.resources.cpus_per_worker}
            ),
            run_config=RunConfig(
                name="pretrain",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.resources.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        meter, telemetry = Meter("pretrain", config.steps, "steps"), Telemetry(output.uri)
        with meter, telemetry, _Watch(board, meter, telemetry):
            try:
                trainer.fit()
            except Exception as error:
                failure = ray.get(board.failure.remote())
                if failure is None:
                    raise CcpError(f"pretraining stopped: {_last_line(error)}; run again to continue") from error
        failure = ray.get(board.failure.remote())
        if failure is not None:
            raise getattr(errors, failure[0])(failure[1])


class Board:
    """An actor between workers and driver: metrics rows for progress, and the failure that must end the run."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._failure: tuple[str, str] | None = None

    def post(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows

    def fail(self, kind: str, message: str) -> None:
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        return self._failure


class _Watch:
    """Moves rows from the board to the meter and the telemetry while the trainer blocks the main thread."""

    def __init__(self, board: Any, meter: Meter, telemetry: Telemetry) -> None:
        self.board, self.meter, self.telemetry = board, meter, telemetry
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _loop(self) -> None:
        import ray

        while True:
            last = self.stop.wait(1.0)
            for row in ray.get(self.board.take.remote()):
                self.telemetry.add(row)
                for problem in row.get("problems", []):
                    say(f"monitor: {problem}")
                if "contrastive" in row:
                    note = f"loss {row['contrastive']:.3f}, in-group accuracy {row['accuracy']:.2f}"
                    self.meter.update(row["step"] - self.meter.done, f"{note}, {row['tokens_per_s']:,.0f} tokens/s")
            self.telemetry.flush_if_due()
            if last:
                return


def _worker(arguments: dict[str, Any]) -> None:
    import ray
    import torch

    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # a restart cannot mend what the last attempt named
    if not torch.cuda.is_available():
        torch.set_num_threads(arguments["threads"])
    try:
        _train_and_export(arguments)
    except CcpError as error:
        ray.get(board.fail.remote(type(error).__name__, str(error)))
        raise


def _train_and_export(arguments: dict[str, Any]) -> None:
    import torch.distributed as dist

    from ccp_ray.encoder import load_trainable
    from ccp_ray.pretrain import Pretraining

    config = PretrainConfig.model_validate_json(arguments["config"])
    corpus = Corpus.open(arguments["corpus"])
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        tokenizer = corpus.tokenizer_folder(Path(scratch))
        encoder = load_trainable(arguments["source"], config.encoder, tokenizer, config.mlm.weight > 0, config.seed)
        run = Pretraining(config, corpus, encoder, arguments["output"])
        started = time.monotonic()
        run.run(lambda row: arguments["board"].post.remote(row))
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
    measured = {"seconds": seconds, "workers": run.world, "tokens_per_s": run.tokens_per_s()}
    Ledger(store).commit(_EXPORT, Entry(files=files, info={"summary": summary, "measured": measured}))


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
