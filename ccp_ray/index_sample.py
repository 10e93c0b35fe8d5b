"""Which rows train a quantiser and which are held out as queries: by lot, the same in every task.

A piece's name and the seed decide its lots, so a row keeps its lot when a corpus grows: a tenth of each piece is
held out for ever, and a quantiser that is used again for a larger corpus never saw a query. Of what remains, and of
what is held out, the rows with the lowest lots are taken: two thresholds say which, and tasks need no list of rows.

Stage "sample": tasks read the pieces once, in the groups that shards of `shard_rows` would be, and leave the sampled
vectors in working files (`_sample/`, no part of the artifact). Cost: a second for 10 million rows to find the
thresholds, then one pass over the vectors; memory: one piece and the group's samples.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccp_ray.artifact import Output, digest_json
from ccp_ray.embeddings import EmbeddingsPiece, FloatArray
from ccp_ray.errors import DamagedError
from ccp_ray.index_rows import RowSource
from ccp_ray.ledger import Entry, FileRecord, put_bytes
from ccp_ray.pieces import run_pieces
from ccp_ray.storage import Store, open_store

_HELD_OUT = 10  # one row in so many


class Draw(NamedTuple):
    """The rows of each piece: for training those with a lot up to `train`, as queries up to `queries`.

    Where nothing is trained (`trains` false) every row may be a query.
    """

    seed: int
    trains: bool
    train: float = -1.0
    queries: float = -1.0

    @property
    def digest(self) -> str:
        """Names the pieces that depend on it: a run that goes on with another --reuse may draw other rows."""
        return digest_json(self._asdict())[:12]

    def train_rows(self, piece: EmbeddingsPiece) -> NDArray[np.int64]:
        held_N, lots_N = self._lots(piece)
        return np.flatnonzero(~held_N & (lots_N <= self.train))

    def query_rows(self, piece: EmbeddingsPiece) -> NDArray[np.int64]:
        held_N, lots_N = self._lots(piece)
        return np.flatnonzero(held_N & (lots_N <= self.queries))

    def _lots(self, piece: EmbeddingsPiece) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which rows [N] are held out, and each row's lot."""
        key = hashlib.sha256(f"{self.seed} {piece.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:16], "big"))
        lots_N, turns_N = rng.random(piece.rows), rng.random(piece.rows)
        if not self.trains:
            return np.ones(piece.rows, dtype=np.bool_), lots_N
        count = held_out(piece.rows)
        last = np.partition(turns_N, count - 1)[count - 1] if count else -1.0
        return turns_N <= last, lots_N


class Sample(NamedTuple):
    """Working files of a group."""

    train: FileRecord
    queries: FileRecord


def held_out(rows: int) -> int:
    """Rows of a piece that train nothing: a tenth, and one of a smaller piece unless it is the only one."""
    return max(rows // _HELD_OUT, int(rows > 1))


def draw(pieces: Sequence[EmbeddingsPiece], seed: int, train: int, queries: int) -> Draw:
    """Lots for `train` rows and `queries` rows, or as many as there are."""
    all_rows = Draw(seed, trains=train > 0, train=1.0, queries=1.0)
    rows = sum(piece.rows for piece in pieces)
    held = sum(held_out(piece.rows) for piece in pieces) if train else rows
    lots = (all_rows._lots(piece) for piece in pieces)
    drawn = Draw(seed, train > 0, queries=_threshold((lots_N[held_N] for held_N, lots_N in lots), queries, held))
    if train:
        again = (all_rows._lots(piece) for piece in pieces)
        free = (lots_N[~held_N] for held_N, lots_N in again)
        drawn = drawn._replace(train=_threshold(free, train, rows - held))
    return drawn


def sample(target: Output, source: RowSource, groups: list[list[int]], drawn: Draw, cpus: float) -> list[Sample]:
    """Read the sampled rows of every piece, group by group. Raises DataError for pieces that cannot be used."""
    job = {"output": target.uri, "source": source._asdict(), "draw": drawn._asdict()}
    plan = {f"{drawn.digest}-{number:05d}": job | {"pieces": group} for number, group in enumerate(groups)}
    entries = run_pieces(target, "sample", plan, _read_sample, cpus=cpus)
    return [Sample(*entry.files) for entry in entries.values()]


def load(store: Store, records: Iterable[FileRecord]) -> FloatArray:
    """Sampled vectors [n, D] of all groups, in order. Raises DamagedError where one was altered."""
    arrays = []
    for record in records:
        data = store.read(record.path)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise DamagedError(f"{store.uri(record.path)}: altered or damaged; remove the output and index again")
        arrays.append(np.load(io.BytesIO(data), allow_pickle=False))
    vectors_nD: FloatArray = np.concatenate(arrays)
    return vectors_nD


def _threshold(lots: Iterable[NDArray[np.float64]], count: int, among: int) -> float:
    """The lot of the last of the `count` lowest `among` so many; of the last of all where there are fewer.

    Lots are even in [0, 1), so the lowest lie below count / among and six deviations: only those are kept.
    """
    if among == 0:
        return -1.0
    bound = (count + 6 * math.sqrt(count) + 36) / among
    low = np.sort(np.concatenate([lots_n[lots_n <= bound] for lots_n in lots]))
    return float(low[min(count, len(low)) - 1])


def _read_sample(name: str, job: dict[str, Any]) -> Entry:
    rows, drawn = RowSource(**job["source"]).open(), Draw(**job["draw"])
    width = rows.embeddings.dimensions
    kept: dict[str, list[FloatArray]] = {"train": [], "queries": []}
    for number in job["pieces"]:
        piece = rows.piece(number)
        chosen = {"train": drawn.train_rows(piece), "queries": drawn.query_rows(piece)}
        if any(len(numbers) for numbers in chosen.values()):
            vectors_ND, _ = rows.read(number)
            for kind, numbers in chosen.items():
                kept[kind].append(vectors_ND[numbers])
    store = open_store(job["output"])
    files = []
    for kind, arrays in kept.items():
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate([np.empty((0, width), dtype=np.float32), *arrays]))
        files.append(put_bytes(store, f"_sample/{name}-{kind}.npy", buffer.getvalue()))
    return Entry(rows=sum(map(len, kept["train"])), files=files)
