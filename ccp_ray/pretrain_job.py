"""Pretraining as a job: corpus in, encoder out, on Ray Train with DeepSpeed.

Workers run `Pretraining` (`training_job` starts and watches them); the driver checks the request before anything is
written, and writes the manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ccp_ray.artifact import Artifact, InputRef, Request, open_artifact, open_output
from ccp_ray.config import semantic
from ccp_ray.corpus import Corpus
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import Ledger, put_folder
from ccp_ray.model_source import cache_folder, hidden_size, local_model, model_reference
from ccp_ray.pretrain_config import PretrainConfig, check_head
from ccp_ray.pretrain_worker import work
from ccp_ray.progress import say
from ccp_ray.sampling import Sampler
from ccp_ray.session import ray_session
from ccp_ray.tokenizer import tokenizer_fingerprint
from ccp_ray.training_job import plan_workers as plan_workers
from ccp_ray.training_job import train
from ccp_ray.training_worker import EXPORT


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
            arguments = {
                "config": config.model_dump_json(),
                "corpus": source.uri,
                "source": starting.uri if starting else None,
            }
            train("pretrain", work, config, config.steps, target.uri, arguments)
    entry = ledger.read(EXPORT)
    return target.finish(entry.files, entry.info["summary"], entry.info["measured"])


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
