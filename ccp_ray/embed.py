"""Embed texts as a resumable job on Ray Data: read, tokenise, encode, commit, piece by piece.

    plan ──► reuse ──► tokenise ──► encode ──► commit ──► manifest

A piece is one part of the corpus (65,536 rows by default); inside it texts are sorted by length and batched by a token
budget. Its ledger entry is the commit. Row i of a piece's vectors is row i of its table (id, lang, text). Pieces stream
through the operators (`embed_stream`), so tokenising and uploads overlap with the model; memory is that of the few
pieces under way, whatever the corpus.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ccp_ray.artifact import Artifact, InputRef, Output, Request, find_artifact, open_output
from ccp_ray.config import semantic
from ccp_ray.corpus import Corpus
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embed_plan import Piece, corpus_plan, imported_plan
from ccp_ray.embed_reuse import reuse_pieces
from ccp_ray.embed_stream import LEDGER, STAGE, Commit, Encode, Tokenise
from ccp_ray.errors import DataError, UsageError
from ccp_ray.faults import reach
from ccp_ray.ledger import Entry, Ledger, put_bytes
from ccp_ray.log_fields import log_fields
from ccp_ray.model_source import model_reference
from ccp_ray.piece_telemetry import PieceTelemetry
from ccp_ray.pieces import collect, done_in_order, outstanding
from ccp_ray.progress import Meter, say
from ccp_ray.rows import Imported, import_rows, texts_reference
from ccp_ray.session import cluster_cpus, cluster_gpus, ray_session

# A worker loads torch and the model before its first row: 5 s and more of a CPU, which a few rows do not pay back.
_WORKER_ROWS = 256


def embed(
    encoder: str, texts: str, output: str, config: EmbedConfig | None = None, reuse: Sequence[str] = ()
) -> Artifact:
    """Embed a corpus, or JSON lines / parquet with `id` and `text` (and `lang`), rows as they are.

    `reuse`: earlier outputs of `embed`; what they have of the same rows, encoder and settings is copied. Returns the
    finished embeddings artifact. Raises UsageError or DataError for an encoder or texts that cannot be used; StoreError
    where the store fails for good (what was committed stays).
    """
    config = config or EmbedConfig()
    inputs = [model_reference("encoder", encoder), texts_reference(texts)]
    target = open_output(output, Request(kind="embeddings", config=semantic(config), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    with target.unless_refused(), ray_session():
        _check_gpu(config)
        plan, imported = _plan(target, texts, inputs[0], config)
        names = {piece.name: piece.rows for piece in plan}
        left = outstanding(target, "pieces", names)
        if reuse and left:
            reuse_pieces(target, left, reuse)
            left = outstanding(target, "pieces", names)
        entries = _run(target, plan, left, inputs[0], config)
    return _finish(target, plan, entries, imported, time.monotonic() - started)


def _plan(target: Output, texts: str, encoder: InputRef, config: EmbedConfig) -> tuple[list[Piece], Imported | None]:
    """The pieces in order. Raises DataError where there is no text."""
    corpus = find_artifact(texts)
    imported = None
    if corpus is not None and corpus.kind == "corpus":
        plan = corpus_plan(Corpus.open(texts), encoder.fingerprint, config)
    else:
        imported = import_rows(texts, target, config.piece_rows, config.max_bad_share)
        plan = imported_plan(imported.parts, target.uri, encoder.fingerprint, config)
    if not plan:
        raise DataError(f"{texts}: no texts to embed")
    return plan, imported


def _run(
    target: Output, plan: list[Piece], left: list[str], encoder: InputRef, config: EmbedConfig
) -> dict[str, Entry]:
    """Commit the pieces that are left. Returns the entries of all, by name."""
    pieces = {piece.name: piece for piece in plan}
    done: dict[str, Entry] = {}
    if left:
        before = len(pieces) - len(left)
        meter = Meter("embed", len(pieces), "pieces", before)
        with (
            log_fields(run=target.uri, stage=STAGE),
            meter,
            PieceTelemetry(target.uri, STAGE, len(pieces), before) as telemetry,
        ):

            def accept(name: str, entry: Entry) -> None:
                done[name] = entry
                meter.update(note=f"{entry.rows} rows")
                reach("embed.collected")

            stream = _stream([pieces[name] for name in left], encoder.uri, target.uri, config)
            collect(telemetry.through(stream), target, accept)
    return done_in_order(Ledger(target.store, LEDGER), pieces, done)


def _stream(todo: list[Piece], encoder: str, output: str, config: EmbedConfig) -> Any:
    import ray.data
    from ray.data import ActorPoolStrategy

    use_gpu, (least, most), tokenizers = _sizes(config, len(todo), sum(piece.rows for piece in todo))
    # What works around the model must find room beside it, on one CPU too: 0.7 + 0.2 + 0.1.
    placement: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0.7} if use_gpu else {"num_cpus": 0.7}
    actor = (encoder, config.model_dump_json(), output)
    readers = ActorPoolStrategy(min_size=1, max_size=tokenizers)
    models = ActorPoolStrategy(min_size=least, max_size=most)
    # Grown by need: each is a process. Two beside each model keep up with it; on one CPU there is room for one.
    uploads = ActorPoolStrategy(min_size=1, max_size=min(2 * most if cluster_cpus() > 1 else 1, len(todo)))
    dataset = (
        ray.data.from_items([piece._asdict() for piece in todo], override_num_blocks=len(todo))
        .map(Tokenise, fn_constructor_args=actor, compute=readers, num_cpus=0.2)
        .map(Encode, fn_constructor_args=actor, compute=models, **placement)
        .map(Commit, fn_constructor_args=(output,), compute=uploads, num_cpus=0.1)
    )
    dataset.set_name(STAGE)
    return dataset.iter_rows()


def _check_gpu(config: EmbedConfig) -> None:
    """Refuse GPUs that nothing will bring; actors would wait for ever.

    A cluster that grows has none before somebody asks: who says how many workers shall wait for some, waits.
    """
    if not config.resources.gpu or cluster_gpus():
        return
    if config.resources.workers is None:
        raise UsageError(
            "resources.gpu=true, but the Ray cluster has no GPU; add a node with one, leave it out to encode on CPUs, "
            "or set resources.workers to wait for some, where the cluster grows by itself"
        )
    say("embed: waiting for a GPU, the cluster has 0 (resources.gpu=true, resources.workers)")


def _sizes(config: EmbedConfig, pieces: int, rows: int) -> tuple[bool, tuple[int, int], int]:
    """Whether on GPUs, the least and most workers, and the most tokenizers, for what is left to do."""
    cpus, gpus = cluster_cpus(), cluster_gpus()
    asked = config.resources
    use_gpu = gpus > 0 if asked.gpu is None else asked.gpu
    if isinstance(asked.workers, tuple):
        least, most = asked.workers
    else:  # a fixed number: Ray Data grows a pool late, or never
        least = most = asked.workers or (max(gpus, 1) if use_gpu else min(cpus, -(-rows // _WORKER_ROWS)))
    tokenizers = asked.tokenizers or max(1, cpus // 2 if use_gpu else cpus // 8)
    return use_gpu, (min(least, pieces), min(most, pieces)), min(tokenizers, pieces)


def _finish(
    target: Output, plan: list[Piece], entries: dict[str, Entry], imported: Imported | None, seconds: float
) -> Artifact:
    ordered = [entries[piece.name] for piece in plan]
    names = ("vectors", "table", "languages")
    pieces = [
        {"name": piece.name, "rows": entry.rows} | {name: entry.info[name] for name in names}
        for piece, entry in zip(plan, ordered, strict=True)
    ]
    index = put_bytes(target.store, "pieces.json", json.dumps(pieces, indent=0).encode())
    languages: Counter[str] = Counter()
    for entry in ordered:
        languages.update(entry.info["languages"])
    summary = {
        "rows": sum(entry.rows for entry in ordered),
        "dimensions": ordered[0].info["dimensions"],
        "dtype": target.request.config["dtype"],
        "precision": sorted({entry.info["precision"] for entry in ordered}),
        "languages": dict(sorted(languages.items())),
        "truncated": sum(entry.info["truncated"] for entry in ordered),
        "quarantined": imported.quarantined if imported else 0,
        "tokens": sum(entry.info["tokens"] for entry in ordered),
    }
    files = [index, *(record for entry in entries.values() for record in entry.files)]
    _tell_mixture(ordered)
    return target.finish(files + (imported.files if imported else []), summary, _measured(entries, seconds))


def _tell_mixture(entries: Sequence[Entry]) -> None:
    """Say where workers of different hardware chose different precisions."""
    rows: Counter[str] = Counter()
    for entry in entries:
        rows[entry.info["precision"]] += entry.rows
    if len(rows) > 1:
        pieces = Counter(entry.info["precision"] for entry in entries)
        each = (
            f"{count:,} piece{'s' * (count != 1)} ({rows[name]:,} rows) in {name}"
            for name, count in sorted(pieces.items())
        )
        say(
            f"embed: {' and '.join(each)}, as precision=auto takes what a worker's hardware has; for one precision in "
            "all, set precision=fp32 or precision=bf16 and embed to another --output",
            level="warning",
        )


def _measured(entries: dict[str, Entry], seconds: float) -> dict[str, Any]:
    """Times and speeds; padding is among them, as it depends on the token budget and the device."""
    limits = [entry.info["token_limit"] for entry in entries.values() if entry.info["token_limit"]]
    if limits:
        say(f"embed: out of memory in some batches; they ran with a token budget of {min(limits):,} (token_budget)")
    encoding, tokens, padded = (
        sum(entry.info[name] for entry in entries.values()) for name in ("seconds", "tokens", "padded")
    )
    measured = {"seconds": seconds, "encoding_seconds": encoding, "padding_efficiency": tokens / padded}
    return measured | ({"token_limit": min(limits)} if limits else {})
