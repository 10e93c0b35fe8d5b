"""Fine-tuning as a job: questions with passages in, an encoder (or one of questions and one of passages) out.

    sources ──► _data/ (token ids, read by position) ──► Ray Train workers ──► encoder folder, metrics
    (driver)    committed as pieces "train", "dev"       (`Finetuning`)        two: question/ and passage/

The same resume, monitor, checkpoints and store as pretraining: see `training_job` and `training_loop`. Killed at any
moment and run again, it goes on, and ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output
from ccp_ray.documents import fingerprint
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_worker import DEV, TRAIN, work
from ccp_ray.ledger import Entry
from ccp_ray.model_source import hidden_size, model_reference
from ccp_ray.pair_batches import check_questions
from ccp_ray.pair_data import PairData, Readers, write_pairs
from ccp_ray.pair_sources import SourceConfig
from ccp_ray.progress import say
from ccp_ray.session import ray_session
from ccp_ray.text_reader import tokenizer_of
from ccp_ray.training_job import train
from ccp_ray.training_worker import EXPORT


def finetune(output: str, config: FinetuneConfig) -> Artifact:
    """Train on the sources that the configuration names. Returns the finished encoder artifact.

    Of one encoder it is a plain Hugging Face folder; of two it holds one in `question/` and one in `passage/`.
    Raises UsageError or DataError, and leaves nothing, where sources, encoders and configuration do not fit;
    TrainingError naming the step where training diverged or collapsed (the last checkpoint stays).
    """
    inputs = _inputs(config)
    config = config.starting_at({ref.role: ref.uri for ref in inputs})  # workers run in a folder of their own
    _check_encoders(config)
    target = open_output(output, Request(kind="encoder", config=config.request(), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    ledger = target.ledger
    with target.unless_refused():
        data = _read(target, config)
        steps = config.planned_steps(data[TRAIN].info["questions"])
    _tell(data, config, steps)
    with ray_session():
        if EXPORT not in ledger.committed():
            train("finetune", work, config, steps, target.uri, {"config": config.model_dump_json(), "steps": steps})
    entry = ledger.read(EXPORT)
    known = ("questions", "passages", "languages", "contradictions")
    counts = {name: data[TRAIN].info[name] for name in known} | {"quarantined": data[TRAIN].quarantined}
    quarantined = [file for piece in data.values() for file in piece.files if file.path.startswith("quarantine/")]
    return target.finish([*entry.files, *quarantined], entry.info["summary"] | counts, entry.info["measured"])


def _inputs(config: FinetuneConfig) -> list[InputRef]:
    """Encoders and sources, by what they are. Raises UsageError where one is not there."""
    roles = {"encoder": config.encoder.source}
    if config.passage_encoder is not None:
        roles["passage_encoder"] = config.passage_encoder.source
    found = [model_reference(role, source) for role, source in roles.items()]
    return found + _references(TRAIN, config.train) + _references(DEV, config.dev_data)


def _references(role: str, sources: Sequence[SourceConfig]) -> list[InputRef]:
    found = []
    for number, source in enumerate(sources):
        files = source.files()
        found.append(InputRef(role=f"{role}-{number}", uri=files[0].uri, fingerprint=fingerprint(files)))
    return found


def _check_encoders(config: FinetuneConfig) -> None:
    """Raises UsageError for one that cannot be trained, or two whose vectors cannot be compared."""
    from ccp_ray.encoder import check_trainable  # torch only where there is something to do

    for start in config.starts().values():
        check_trainable(start.source, start.pooling)
    widths = {start.source: hidden_size(start.source) for start in config.starts().values()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{source} {width}" for source, width in widths.items())
        raise UsageError(f"encoder and passage_encoder have vectors of different widths ({told}); choose two alike")


def _read(target: Output, config: FinetuneConfig) -> dict[str, Entry]:
    """The questions as pieces of the output, written once. Raises DataError where training cannot use them."""
    starts = config.starts()
    by_side = [starts.get(side, config.encoder) for side in ("question", "passage")]
    readers = Readers(
        tokenizer_of(by_side[0].source, config.question_tokens, config.question_prompt),
        tokenizer_of(by_side[1].source, config.passage_tokens, config.passage_prompt),
    )
    found = {}
    for split, sources in ((TRAIN, config.train), (DEV, config.dev_data)):
        if not sources:
            continue
        if not target.ledger.has(split):
            pool = (target.uri, split, sources, readers, config.negative_pool, config.max_bad_share)
            target.ledger.commit(split, write_pairs(*pool))
        found[split] = target.ledger.read(split)
    check_questions(config, PairData(target.store, found[TRAIN], readers))
    return found


def _tell(data: dict[str, Entry], config: FinetuneConfig, steps: int) -> None:
    for split, entry in data.items():
        info = entry.info
        languages = ", ".join(f"{lang} {count:,}" for lang, count in info["languages"].items())
        say(f"finetune: {split}: {info['questions']:,} questions ({languages}), {info['passages']:,} passages")
        if entry.quarantined:
            say(f"finetune: {split}: {entry.quarantined:,} rows put aside, see quarantine/{split}.jsonl")
        if info["contradictions"]:
            say(f"finetune: {split}: {info['contradictions']:,} hard negatives are also positives, and left out")
    say(f"finetune: {steps:,} steps of {config.batch} questions")
