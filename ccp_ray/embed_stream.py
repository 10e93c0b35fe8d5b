"""What the workers of `embed` do with a piece: three operators of one Ray Data stream.

    Tokenise (actors, CPU) ──► Encode (actors that hold the model) ──► Commit (actors)

A piece travels as one row, its arrays as bytes. While the model runs on one piece the next is read and tokenised and
the one before is hashed and uploaded. Each operator first asks whether another run has committed the piece meanwhile.
An error that a user can mend travels on in the row's place, so it reaches the driver with its words.
"""

from __future__ import annotations

import hashlib
import io
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccp_ray.batching import padding
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.errors import CcpError, DamagedError
from ccp_ray.faults import reach
from ccp_ray.ledger import Entry, Ledger, put_content
from ccp_ray.log_fields import log_fields
from ccp_ray.pieces import commit, failed, settled
from ccp_ray.storage import open_store

LEDGER, STAGE = "_ledger/pieces", "embed"
_COLUMNS = ["id", "lang", "text"]
_TOLD = ("truncated", "dimensions", "precision", "tokens", "padded", "seconds", "token_limit")


def _failed(row: dict[str, Any], error: CcpError, output: str) -> dict[str, Any]:
    with log_fields(run=output, stage=STAGE, piece=row["name"]):
        return failed(row["name"], error)


def _over(row: dict[str, Any]) -> bool:
    """Whether nothing is left to do for this row: committed elsewhere, failed, or not to be begun."""
    return bool(row["entry"] or row["error"])


class Tokenise:
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
            return _failed(row, self.failure, self.output.root)
        try:
            ready = settled(self.output, LEDGER, row["name"])
            if ready is not None:
                return ready
            table = read_rows(row)
        except CcpError as error:
            return _failed(row, error, self.output.root)
        reach("embed.read")
        rows, cut = self.reader.tokenize(table.column("text").to_pylist())
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return {
            "name": row["name"],
            "table": buffer.getvalue(),
            "tokens": np.concatenate(rows).astype(np.int32).tobytes(),
            "lengths": np.array([len(tokens) for tokens in rows], dtype=np.int64).tobytes(),
            "truncated": cut,
            "entry": "",
            "error": "",
        }


def read_rows(piece: dict[str, Any]) -> pa.Table:
    """Columns id, lang and text of a piece. Raises DamagedError where the object is gone or was altered."""
    store = open_store(piece["uri"])
    where = store.uri(piece["key"])
    try:
        data = store.read(piece["key"])
    except FileNotFoundError:
        raise DamagedError(f"{where}: missing; copy the texts again, or make them again") from None
    if hashlib.sha256(data).hexdigest() != piece["sha256"]:
        raise DamagedError(f"{where}: checksum does not match; copy the texts again, or make them again")
    return pq.read_table(io.BytesIO(data), columns=_COLUMNS).slice(0, piece["rows"])


class Encode:
    """Holds the model and turns a piece's tokens into vectors."""

    def __init__(self, encoder: str, settings: str, output: str) -> None:
        import torch

        from ccp_ray.encoder import Encoder
        from ccp_ray.hardware import device, resolve

        torch.set_num_threads(1)  # one actor a CPU: threads of several would only fight
        self.config = EmbedConfig.model_validate_json(settings)
        self.output = open_store(output)
        self.failure: CcpError | None = None
        try:
            where, pooling, prompt = device(self.config.resources.gpu), self.config.pooling, self.config.prompt
            self.precision = precision = resolve(self.config.precision, where)
            loaded = Encoder.load(encoder, precision=precision, pooling=pooling, prompt=prompt, where=where)
            self.encoder = loaded.packed()
        except CcpError as error:
            self.failure = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if _over(row):
            return row
        try:
            if self.failure:
                raise self.failure
            ready = settled(self.output, LEDGER, row["name"])
            return row | self._encode(row) if ready is None else ready
        except CcpError as error:
            return _failed(row, error, self.output.root)

    def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        reach("embed.tokenised")
        lengths = np.frombuffer(row.pop("lengths"), dtype=np.int64)
        flat = np.frombuffer(row.pop("tokens"), dtype=np.int32).astype(np.int64)
        real, padded = padding(lengths, self.encoder.budget(self.config.token_budget))
        started = time.monotonic()
        vectors_ND = self.encoder.encode_tokens(np.split(flat, np.cumsum(lengths)[:-1]), self.config.token_budget)
        seconds = time.monotonic() - started
        reach("embed.encoded")
        return {
            "vectors": vectors_ND.astype(self.config.dtype).tobytes(),
            "dtype": self.config.dtype,
            "dimensions": self.encoder.dimensions,
            "precision": self.precision,
            "tokens": real,
            "padded": padded,
            "seconds": seconds,
            "ready": time.time(),
            "token_limit": self.encoder.token_limit,
        }


class Commit:
    """Writes a piece's files, then its ledger entry.

    An actor: on a machine whose CPUs are taken Ray ends a task's process after an idle second, so that nearly each
    piece would start one, which costs 2.3 s of a CPU that encodes.
    """

    def __init__(self, output: str) -> None:
        self.output = open_store(output)
        self.ledger = Ledger(self.output, LEDGER)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if _over(row):
            return row
        try:
            entry = self._write(row)
            reach("embed.written")
            with log_fields(run=self.output.root, stage=STAGE, piece=row["name"]):
                committed = commit(self.ledger, row["name"], entry, STAGE, row["ready"])
            reach("embed.committed")
            return committed
        except CcpError as error:
            return _failed(row, error, self.output.root)

    def _write(self, row: dict[str, Any]) -> Entry:
        table = pq.read_table(io.BytesIO(row["table"]))
        vectors_ND = np.frombuffer(row["vectors"], dtype=row["dtype"]).reshape(table.num_rows, row["dimensions"])
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(bad):
            # No DataError, which would undo the output: hours of committed pieces may lie in it.
            bad_id = table.column("id")[int(bad[0])]
            raise CcpError(f"the encoder gives no finite vector for {bad_id!s}; check its weights")
        buffer = io.BytesIO()
        np.save(buffer, vectors_ND)
        # By content: another machine's vectors may differ in the last bit, and must not replace committed ones.
        vectors = put_content(self.output, f"vectors/{row['name']}", "npy", buffer.getvalue())
        rows = put_content(self.output, f"rows/{row['name']}", "parquet", row["table"])
        languages = {item["values"]: item["counts"] for item in table.column("lang").value_counts().to_pylist()}
        info = {name: row[name] for name in _TOLD}
        info |= {"vectors": vectors.path, "table": rows.path, "languages": dict(sorted(languages.items()))}
        return Entry(rows=table.num_rows, files=[vectors, rows], info=info)
