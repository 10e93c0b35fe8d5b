"""Embed texts as a resumable job on Ray Data: read, tokenise, encode, commit, piece by piece.

    plan ──► read + tokenise (tasks) ──► encode (actors that hold the model) ──► write + commit (tasks)

Pieces stream through the three operators, so tokenising and uploads overlap with the model. A piece is one part of
the corpus (65,536 rows by default), sorted by length and batched by a token budget inside; its ledger entry is the
commit. Row i of a piece's vectors is row i of its table (id, lang, text).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from ccp_ray.artifact import Artifact, InputRef, Output, Request, find_artifact, open_output, stopped
from ccp_ray.batching import padding
from ccp_ray.config import StrictModel, semantic
from ccp_ray.corpus import Corpus
from ccp_ray.encoder_config import Pooling
from ccp_ray.errors import CcpError, DataError, carry
from ccp_ray.ledger import Entry, Ledger, put_bytes
from ccp_ray.model_source import model_reference
from ccp_ray.pieces import NOT_BEGUN, collect
from ccp_ray.progress import Meter
from ccp_ray.rows import Imported, import_rows, texts_reference
from ccp_ray.session import ray_session
from ccp_ray.storage import open_store

_COLUMNS = ["id", "lang", "text"]
_LEDGER = "_ledger/pieces"


class EmbedResources(StrictModel):
    """Actors that encode; changing these continues the same work."""

    workers: int | None = Field(default=None, ge=1, description="None: one a GPU, else one a CPU")
    gpu: bool | None = Field(default=None, description="None: if the cluster has one")


class EmbedConfig(StrictModel):
    """How texts become vectors."""

    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto: bf16 where native")
    dtype: Literal["float16", "float32"] = Field(default="float16", description="of the stored vectors")
    pooling: Pooling | None = Field(default=None, description="None: as the encoder's folder says")
    max_tokens: int | None = Field(default=None, ge=4, description="None: as the encoder's folder says")
    prompt: str | None = Field(default=None, description="put before every text; None: the folder's default prompt")
    token_budget: int | None = Field(
        default=None, ge=64, description="padded tokens a forward pass; None: as suits the device"
    )
    split: Literal["train", "dev"] | None = Field(default=None, description="of a corpus; None: both")
    limit: int | None = Field(default=None, ge=1, description="rows of each language, the first ones; None: all")
    max_bad_share: float = Field(
        default=0.01, ge=0, le=1, description="rows that may be bad when texts are not a corpus"
    )
    piece_rows: int = Field(default=65_536, ge=1, description="rows a piece when texts are not a corpus")
    resources: EmbedResources = EmbedResources()


class Piece(NamedTuple):
    """Rows to embed: a slice of a parquet object."""

    name: str
    uri: str
    key: str
    start: int
    rows: int
    sha256: str = ""


def embed(encoder: str, texts: str, output: str, config: EmbedConfig | None = None) -> Artifact:
    """Embed a corpus, or JSON lines / parquet with `id` and `text` (and `lang`), rows as they are.

    Returns the finished embeddings artifact. Raises UsageError or DataError for an encoder or texts that cannot
    be used; StoreError where the store fails for good (what was committed stays).
    """
    config = config or EmbedConfig()
    inputs = [model_reference("encoder", encoder), texts_reference(texts)]
    target = open_output(output, Request(kind="embeddings", config=semantic(config), inputs=inputs))
    if isinstance(target, Artifact):
        return target
    started = time.monotonic()
    with target.unless_refused(), ray_session():
        corpus = find_artifact(texts)
        if corpus is not None and corpus.kind == "corpus":
            plan, imported = _corpus_plan(Corpus.open(texts), config), None
        else:
            imported = import_rows(texts, target, config.piece_rows, config.max_bad_share)
            plan = [Piece(part.name, target.uri, part.key, 0, part.rows) for part in imported.parts]
        if not plan:
            raise DataError(f"{texts}: no texts to embed")
        entries = _run(target, plan, inputs[0], config)
    return _finish(target, plan, entries, imported, time.monotonic() - started)


def _corpus_plan(corpus: Corpus, config: EmbedConfig) -> list[Piece]:
    plan: list[Piece] = []
    taken: dict[str, int] = {}
    sums = {record.path: record.sha256 for record in corpus.artifact.files}
    for part in corpus.parts(config.split):
        room = part.rows if config.limit is None else min(part.rows, config.limit - taken.get(part.lang, 0))
        if room > 0:
            taken[part.lang] = taken.get(part.lang, 0) + room
            plan.append(Piece(part.name, corpus.artifact.uri, part.sentences, 0, room, sums[part.sentences]))
    return plan


def _run(target: Output, plan: list[Piece], encoder: InputRef, config: EmbedConfig) -> dict[str, Entry]:
    ledger = Ledger(target.store, _LEDGER)
    done = ledger.entries(among={piece.name for piece in plan})
    todo = [piece._asdict() for piece in plan if piece.name not in done]
    with Meter("embed", len(plan), "pieces", len(done)) as meter:

        def accept(name: str, entry: Entry) -> None:
            done[name] = entry
            meter.update(note=f"{entry.rows} rows")

        collect(_stream(todo, encoder.uri, target.uri, config) if todo else (), target, accept)
    return done


def _stream(todo: list[dict[str, Any]], encoder: str, output: str, config: EmbedConfig) -> Any:
    import ray
    import ray.data

    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    use_gpu = gpus > 0 if config.resources.gpu is None else config.resources.gpu
    workers = config.resources.workers or (max(gpus, 1) if use_gpu else cpus)
    workers = min(workers, len(todo))
    # Tasks around the model must find room beside it: an actor takes three quarters of a CPU, a task a quarter.
    placement: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0.75} if use_gpu else {"num_cpus": 0.75}
    settings = config.model_dump_json()
    return (
        ray.data.from_items(todo, override_num_blocks=len(todo))
        .map(_Tokenise, fn_constructor_args=(encoder, settings, output), concurrency=1, num_cpus=0.25)
        .map(_Encode, fn_constructor_args=(encoder, settings), concurrency=(1, workers), **placement)
        .map(_commit, fn_kwargs={"output": output}, num_cpus=0.25)
        .iter_rows()
    )


def _read_slice(row: dict[str, Any]) -> pa.Table:
    """Columns id, lang and text of a piece's rows. Raises DataError where the object is gone or was altered."""
    store = open_store(row["uri"])
    where = store.uri(row["key"])
    try:
        data = store.read(row["key"])
    except FileNotFoundError:
        raise DataError(f"{where}: missing; copy the texts again, or make them again") from None
    if row["sha256"] and hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError(f"{where}: checksum does not match; copy the texts again, or make them again")
    return pq.read_table(io.BytesIO(data), columns=_COLUMNS).slice(row["start"], row["rows"])


def _failed(row: dict[str, Any], error: CcpError) -> dict[str, Any]:
    """What travels through the rest of the stream instead of the piece."""
    return {"name": row["name"], "error": carry(error)}


class _Tokenise:
    """Reads a piece and tokenises it; an actor, so that the tokenizer loads once."""

    def __init__(self, encoder: str, settings: str, output: str) -> None:
        from ccp_ray.text_reader import tokenizer_of  # transformers loads in workers only: the driver stays light

        config = EmbedConfig.model_validate_json(settings)
        self.output = open_store(output)
        self.failure: CcpError | None = None
        try:
            self.reader = tokenizer_of(encoder, config.max_tokens, config.prompt)
        except CcpError as error:  # Ray would start the actor again and again
            self.failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.failure:
            return _failed(row, self.failure)
        try:
            if stopped(self.output):
                return NOT_BEGUN | {"name": row["name"]}
            table = _read_slice(row)
        except CcpError as error:
            return _failed(row, error)
        rows, cut = self.reader.tokenize(table.column("text").to_pylist())
        lengths = np.array([len(tokens) for tokens in rows], dtype=np.int64)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return {
            "name": row["name"],
            "table": buffer.getvalue(),
            "tokens": np.concatenate(rows).astype(np.int32).tobytes(),
            "lengths": lengths.tobytes(),
            "truncated": cut,
            "error": "",
        }


class _Encode:
    """Holds the model and turns a piece's tokens into vectors."""

    def __init__(self, encoder: str, settings: str) -> None:
        import torch

        from ccp_ray.encoder import Encoder
        from ccp_ray.hardware import resolve

        torch.set_num_threads(1)  # one actor a CPU: threads of several would only fight
        self.config = EmbedConfig.model_validate_json(settings)
        self.precision = resolve(self.config.precision)
        self.failure: CcpError | None = None
        try:
            self.encoder = Encoder.load(
                encoder, precision=self.precision, pooling=self.config.pooling, prompt=self.config.prompt
            )
        except CcpError as error:
            self.failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["error"]:
            return row
        if self.failure:
            return _failed(row, self.failure)
        lengths = np.frombuffer(row.pop("lengths"), dtype=np.int64)
        flat = np.frombuffer(row.pop("tokens"), dtype=np.int32).astype(np.int64)
        started = time.monotonic()
        vectors_ND = self.encoder.encode_tokens(np.split(flat, np.cumsum(lengths)[:-1]), self.config.token_budget)
        real, padded = padding(lengths, self.encoder.budget(self.config.token_budget))
        return row | {
            "vectors": vectors_ND.astype(self.config.dtype).tobytes(),
            "dtype": self.config.dtype,
            "dimensions": self.encoder.dimensions,
            "precision": self.precision,
            "tokens": real,
            "padded": padded,
            "seconds": time.monotonic() - started,
        }


def _commit(row: dict[str, Any], output: str) -> dict[str, Any]:
    """Writes a piece's files, then its ledger entry."""
    if row["error"]:
        return row | {"entry": ""}
    try:
        table = pq.read_table(io.BytesIO(row["table"]))
        vectors_ND = np.frombuffer(row["vectors"], dtype=row["dtype"]).reshape(table.num_rows, row["dimensions"])
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(bad):
            raise DataError(
                f"the encoder gives no finite vector for {table.column('id')[int(bad[0])]!s}; check its weights"
            )
        store = open_store(output)
        vectors, rows = f"vectors/{row['name']}.npy", f"rows/{row['name']}.parquet"
        buffer = io.BytesIO()
        np.save(buffer, vectors_ND)
        files = [put_bytes(store, vectors, buffer.getvalue()), put_bytes(store, rows, row["table"])]
        languages = {item["values"]: item["counts"] for item in table.column("lang").value_counts().to_pylist()}
        info = {name: row[name] for name in ("truncated", "dimensions", "precision", "tokens", "padded", "seconds")}
        info |= {"vectors": vectors, "table": rows, "languages": dict(sorted(languages.items()))}
        entry = Entry(rows=table.num_rows, files=files, info=info)
        ledger = Ledger(store, _LEDGER)
        if not ledger.commit(row["name"], entry):
            entry = ledger.read(row["name"])  # another writer was first: its entry stands
    except CcpError as error:
        return {"name": row["name"], "entry": "", "error": carry(error)}
    return {"name": row["name"], "entry": entry.model_dump_json(), "error": ""}


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
        "padding_efficiency": sum(e.info["tokens"] for e in ordered) / sum(e.info["padded"] for e in ordered),
    }
    encoding = sum(entry.info["seconds"] for entry in ordered)
    measured = {"seconds": seconds, "encoding_seconds": encoding}
    files = [index, *(record for entry in ordered for record in entry.files), *(imported.files if imported else [])]
    return target.finish(files, summary, measured)
