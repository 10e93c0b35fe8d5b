"""Pretraining as a job: corpus in, encoder out, on Ray Train with DeepSpeed.

The driver starts a `TorchTrainer` whose workers run `Pretraining`. Checkpoints, metrics and the encoder go to the
output's store from the workers; the driver shows progress and writes the manifest. Ray Train restarts the
workers from the last checkpoint when one dies, and a new driver does the same from the store alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ccp_ray import errors
from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_artifact, open_output
from ccp_ray.board import Board, Watch
from ccp_ray.combinations import check_hardware
from ccp_ray.config import semantic
from ccp_ray.corpus import Corpus
from ccp_ray.errors import CcpError, DataError, UsageError
from ccp_ray.ledger import Ledger, put_folder
from ccp_ray.model_source import cache_folder, hidden_size, local_model, model_reference
from ccp_ray.pretrain_config import PretrainConfig, check_head, even_world
from ccp_ray.pretrain_worker import EXPORT, work
from ccp_ray.progress import Meter, say
from ccp_ray.sampling import Sampler
from ccp_ray.session import ray_session
from ccp_ray.telemetry import Telemetry
from ccp_ray.tokenizer import tokenizer_fingerprint


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
    TrainingError naming the step where training diverged or collapsed (the last checkpoint stays).
    """
    config = config or PretrainConfig()
    source = open_artifact(corpus, "corpus")
    sentences = check_corpus(source, config)
    _check_head(source, config)
    starting = _starting_point(source, config)
    inputs = [source.ref("corpus")] + ([starting] if starting else [])
    target = open_output(output, Request(kind="encoder", config=semantic(config), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    ledger = Ledger(target.store)
    with ray_session():
        if EXPORT not in ledger.committed():
            say(f"pretrain: goes through its languages {planned_epochs(sentences, config)} times")
            _train(config, source, starting, target)
    entry = ledger.read(EXPORT)
    return target.finish(entry.files, entry.info["summary"], entry.info["measured"])


def plan_workers(config: PretrainConfig, cpus: int, gpus: int) -> tuple[int | tuple[int, int], bool]:
    """(workers or their bounds, whether each has a GPU).

    Raises UsageError for no GPU, and where the groups of a step cannot be shared out evenly.
    """
    use_gpu = gpus > 0 if config.resources.gpu is None else config.resources.gpu
    most = gpus if use_gpu else min(2, max(1, cpus // config.resources.cpus_per_worker))
    check_hardware(config, use_gpu)
    workers = config.resources.workers
    if workers is None and not most:
        raise UsageError("resources.gpu=true, but the cluster has no GPU; set resources.workers to wait for some")
    if workers is None:
        return even_world(config.groups_per_step, most), use_gpu
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    if config.groups_per_step % least:  # a maximum need not fit: the largest number below it that does is used
        raise UsageError(
            f"groups_per_step={config.groups_per_step} must be a multiple of resources.workers={least}"
            f"{', the minimum' if isinstance(workers, tuple) else ''}"
        )
    most = even_world(config.groups_per_step, most)
    return (least if least == most else (least, most)), use_gpu


def check_corpus(corpus: Artifact, config: PretrainConfig) -> dict[str, int]:
    """Training sentences that have a context, of each language to be trained on.

    Raises UsageError for a language that is not there or a bank too large, DataError for too few sentences.
    """
    known = corpus.summary["languages"]
    for lang in config.languages or known:
        if lang not in known:
            raise UsageError(f"languages: {lang!r} is not in the corpus (it has {', '.join(sorted(known))})")
    opened = Corpus.open(corpus.uri)
    sentences = {lang: opened.training_sentences(lang) for lang in config.languages or known}
    for lang, have in sentences.items():
        if have < config.pairs_per_group:
            raise DataError(
                f"language {lang!r} has {have} training sentences with a context, a group needs "
                f"{config.pairs_per_group}; add documents of two or more sentences, leave it out with languages=[…], "
                "or make groups smaller"
            )
    _check_bank(sentences, config)
    return sentences


def planned_epochs(sentences: Mapping[str, int], config: PretrainConfig) -> str:
    """How often the run goes through its languages, from the one it sees least of to the one it repeats most."""
    sampler = Sampler(config.seed, sentences, config.language_exponent, config.groups_per_step, "pairs")
    epochs = sampler.epochs(config.steps, config.pairs_per_group, mixed=config.mixed_groups)
    ordered = sorted(epochs, key=lambda lang: epochs[lang])
    return " to ".join(f"{epochs[lang]:,.2f} ({lang})" for lang in dict.fromkeys((ordered[0], ordered[-1])))


def _check_bank(sentences: Mapping[str, int], config: PretrainConfig) -> None:
    """A ring larger than its corpus holds the same sentences twice or more: copies, not negatives."""
    if config.bank.kind == "shared":
        sentences = {"all together": sum(sentences.values())}
    for lang, have in sentences.items():
        if config.bank.size > have:
            raise UsageError(
                f"bank.size={config.bank.size} is larger than the corpus: language {lang!r} has {have} training "
                f"sentences with a context; set bank.size={have} or less, leave the language out with languages=[…], "
                "or add documents"
            )


def _check_head(corpus: Artifact, config: PretrainConfig) -> None:
    if config.head_start == "random":
        return  # any width will do: no need to ask for a model's settings
    source = starting_source(corpus, config)
    check_head(config, hidden_size(source) if source else config.encoder.architecture.hidden)


def starting_source(corpus: Artifact, config: PretrainConfig) -> str | None:
    """The encoder to start from: as configured, else the one whose tokenizer the corpus took; None: from scratch."""
    given = (ref.uri for ref in corpus.inputs if ref.role == "tokenizer")
    return config.encoder.source or next(given, None)


def _starting_point(corpus: Artifact, config: PretrainConfig) -> InputRef | None:
    source = starting_source(corpus, config)
    if source is None:
        return None
    from ccp_ray.text_reader import load_tokenizer  # torch only where an encoder is given

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
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ccp_ray.engine import communication_note
    from ccp_ray.worker_group import PreemptibleTorchConfig

    resources = ray.cluster_resources()
    workers, use_gpu = plan_workers(config, int(resources.get("CPU", 1)), int(resources.get("GPU", 0)))
    where = "GPU, nccl" if use_gpu else f"CPU, {communication_note(config.deepspeed)}"
    shape = f"ZeRO {config.deepspeed.zero_stage}, {config.deepspeed.precision}"
    count = f"{workers[0]} to {workers[1]}" if isinstance(workers, tuple) else str(workers)
    say(f"pretrain: {count} worker{'s' * (count != '1')}, {shape}, {where}")
    least = workers[0] if isinstance(workers, tuple) else workers
    _say_what_is_missing(resources, {"CPU": least * config.resources.cpus_per_worker, "GPU": least * use_gpu})
    # On the driver's node, where Ray Train has its controller: with another node's death this run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
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
            work,
            train_loop_config=arguments,
            torch_config=PreemptibleTorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.resources.cpus_per_worker},
                elastic_resize_monitor_interval_s=config.resources.resize_every_s,
            ),
            run_config=RunConfig(
                name="pretrain",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=config.resources.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        meter, telemetry = Meter("pretrain", config.steps, "steps"), Telemetry(output.uri)
        with meter, telemetry, Watch(board, meter, telemetry):
            try:
                trainer.fit()
            except Exception as error:
                failure = ray.get(board.failure.remote())
                if failure is None:
                    raise CcpError(f"pretraining stopped: {_last_line(error)}; run again to continue") from error
        failure = ray.get(board.failure.remote())
        if failure is not None:
            raise getattr(errors, failure[0])(failure[1])


def _say_what_is_missing(have: Mapping[str, float], need: Mapping[str, int]) -> None:
    """Ray waits for what a cluster may yet start; without a word it would look like a standstill."""
    for name, count in need.items():
        if count > have.get(name, 0):
            say(f"pretrain: waiting for {count} {name}s, the cluster has {have.get(name, 0):.0f} (resources.workers)")


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
