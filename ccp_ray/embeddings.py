"""Read an embeddings artifact: vectors and their rows, by number or piece by piece, checked.

    vectors/NAME.npy      [rows, D] float32 or float16
    rows/NAME.parquet     id, lang, text; row i belongs to vector i
    pieces.json           the pieces in order, with rows by language

A piece is read whole and its two objects are hashed against the manifest before a byte of them is used, so a
truncated upload or a flipped bit is an error and never a wrong neighbour. For 65,536 rows of 384 float32 (100 MB)
hashing takes 0.06 s of the 0.2 s that reading them takes. Memory: two copies of one piece; by number, the two pieces
of vectors and the two of rows that were used last. Neighbouring rows cost one read, rows from all over one a piece
(each piece once a call). With a calibration, vectors are calibrated by language as they are read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError

if TYPE_CHECKING:
    from ccp_ray.calibration import Calibration

FloatArray = NDArray[np.float32]

_DTYPES = ("float32", "float16")
_COLUMNS = ("id", "lang", "text")
_KEPT = 2  # pieces


class EmbeddingsPiece(StrictModel):
    """One piece, as pieces.json has it."""

    name: str
    rows: int = Field(ge=0)
    vectors: str
    table: str
    languages: dict[str, int]


class Embeddings:
    """A finished embeddings artifact.

    `e[5]`, `e[100:200]` and `e[[3, 9, 7]]` are vectors, `e.ids(100, 200)`, `e.texts(100, 200)` and `e.table(100, 200)`
    their rows; only pieces that hold some of them are read. Iterating gives (vectors, table) of every piece, in order.
    """

    def __init__(
        self, artifact: Artifact, pieces: list[EmbeddingsPiece], calibration: Calibration | None = None
    ) -> None:
        self.artifact, self.pieces, self.calibration = artifact, pieces, calibration
        self._starts = np.cumsum([0, *(piece.rows for piece in pieces)])
        self.rows = int(self._starts[-1])
        self._recent_vectors = lru_cache(_KEPT)(self._numbered_vectors)
        self._recent_table = lru_cache(_KEPT)(self._numbered_table)
        self.dimensions = int(artifact.summary["dimensions"])
        counts: dict[str, int] = {}
        for piece in pieces:
            for lang, rows in piece.languages.items():
                counts[lang] = counts.get(lang, 0) + rows
        self.languages = dict(sorted(counts.items()))
        """Rows by language."""
        self._sha256 = {record.path: record.sha256 for record in artifact.files}

    @classmethod
    def open(cls, uri: str, calibration: str | None = None) -> Embeddings:
        """The artifact at a URI; its vectors calibrated, if a calibration artifact is named.

        Raises UsageError where there is no finished embeddings artifact, DataError for a damaged piece list, or a
        calibration that was fitted on another encoder's embeddings.
        """
        artifact = open_artifact(uri, "embeddings")
        reader = cls(artifact, [])
        where = artifact.store.uri("pieces.json")
        try:
            pieces = [EmbeddingsPiece.model_validate(piece) for piece in json.loads(reader._object("pieces.json"))]
        except (ValidationError, ValueError, TypeError):
            raise DataError(f"{where}: not a list of pieces; embed the texts again") from None
        return cls(artifact, pieces, None if calibration is None else fitting_calibration(calibration, artifact))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[np.integer]) -> FloatArray:
        """The vector [D] of a number, or the vectors [n, D] of a slice or of numbers in any order, in theirs.

        Raises IndexError for a number outside, TypeError for what is no number.
        """
        if isinstance(key, slice):
            return self._gather(np.arange(*key.indices(self.rows)))
        numbers_n = np.asarray(key)
        if numbers_n.ndim > 1 or (numbers_n.size and numbers_n.dtype.kind not in "iu"):
            raise TypeError("rows are asked for by a number, a slice or a sequence of numbers")
        outside = (numbers_n < -self.rows) | (numbers_n >= self.rows)
        if outside.any():
            number = numbers_n[outside].flat[0] if numbers_n.ndim else key
            raise IndexError(f"row {number}: {self.artifact.uri} has {self.rows:,} rows")
        found_nD = self._gather(
            np.atleast_1d(np.where(numbers_n < 0, numbers_n + self.rows, numbers_n)).astype(np.int64)
        )
        return found_nD if numbers_n.ndim else found_nD[0]

    def ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Ids of rows start to stop, as a slice takes them."""
        return [str(name) for name in self.table(start, stop).column("id").to_pylist()]

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Texts of rows start to stop, as a slice takes them."""
        return [str(text) for text in self.table(start, stop).column("text").to_pylist()]

    def table(self, start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows start to stop, as a slice takes them: columns id, lang and text."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        parts = [pa.schema([(name, pa.string()) for name in _COLUMNS]).empty_table()]
        for number, first in enumerate(self._starts[:-1].tolist()):
            low, high = max(start - first, 0), min(stop - first, self.pieces[number].rows)
            if low < high:
                parts.append(self._recent_table(number).slice(low, high - low))
        return pa.concat_tables(parts, promote_options="permissive")

    def __iter__(self) -> Iterator[tuple[FloatArray, pa.Table]]:
        return (self.read(piece) for piece in self.pieces)

    def read(self, piece: EmbeddingsPiece) -> tuple[FloatArray, pa.Table]:
        """Vectors [rows, D] as float32 and the table (id, lang, text) whose row i belongs to vector i.

        Raises DataError naming the piece for a checksum, shape or type that is not as recorded, and the row for a
        vector with NaN or infinity.
        """
        vectors_ND, table = self._vectors(piece), self._table(piece)
        return self._calibrated(vectors_ND, table), table

    def stored(self, piece: EmbeddingsPiece) -> tuple[NDArray[np.floating], pa.Table]:
        """`read` of vectors as they lie there: float32 or float16, and never calibrated. Raises as it does."""
        return self._stored(piece), self._table(piece)

    def _table(self, piece: EmbeddingsPiece) -> pa.Table:
        table = pq.read_table(io.BytesIO(self._object(piece.table)))
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing or table.num_rows != piece.rows:
            where = self.artifact.store.uri(piece.table)
            wrong = f"no column {missing[0]!r}" if missing else f"{table.num_rows} rows, expected {piece.rows}"
            raise DataError(f"{where}: {wrong}; embed the texts again")
        return table.select(list(_COLUMNS))

    def language(self, lang: str, limit: int | None = None) -> FloatArray:
        """The first `limit` vectors [n, D] of a language, in piece order; all of them for None.

        Pieces without the language are not read. Raises DataError for a language that is not there.
        """
        if lang not in self.languages:
            raise DataError(f"{self.artifact.uri}: no language {lang!r}; it holds {', '.join(self.languages)}")
        wanted = self.languages[lang] if limit is None else min(limit, self.languages[lang])
        out_ND = np.empty((wanted, self.dimensions), dtype=np.float32)
        filled = 0
        for piece in self.pieces:
            if filled < wanted and piece.languages.get(lang):
                vectors_ND, table = self.read(piece)
                chosen_nD = vectors_ND[rows_of(table, lang)][: wanted - filled]
                out_ND[filled : filled + len(chosen_nD)] = chosen_nD
                filled += len(chosen_nD)
        if filled != wanted:
            raise DataError(f"{self.artifact.uri}: {filled} rows of {lang!r}, pieces.json says {wanted}")
        return out_ND

    def _gather(self, numbers_n: NDArray[np.int64]) -> FloatArray:
        """Vectors [n, D] of rows that are there, piece after piece."""
        out_nD = np.empty((len(numbers_n), self.dimensions), dtype=np.float32)
        piece_n = np.searchsorted(self._starts, numbers_n, side="right") - 1
        for number in np.unique(piece_n).tolist():
            here = piece_n == number
            out_nD[here] = self._recent_vectors(number)[numbers_n[here] - self._starts[number]]
        return out_nD

    def _numbered_vectors(self, number: int) -> FloatArray:
        piece = self.pieces[number]
        vectors_ND = self._vectors(piece)
        return vectors_ND if self.calibration is None else self._calibrated(vectors_ND, self._recent_table(number))

    def _numbered_table(self, number: int) -> pa.Table:
        return self._table(self.pieces[number])

    def _calibrated(self, vectors_ND: FloatArray, table: pa.Table) -> FloatArray:
        if self.calibration is None:
            return vectors_ND
        return self.calibration.apply_each(vectors_ND, table.column("lang").to_pylist())

    def _vectors(self, piece: EmbeddingsPiece) -> FloatArray:
        vectors_ND: FloatArray = self._stored(piece).astype(np.float32, copy=False)
        return vectors_ND

    def _stored(self, piece: EmbeddingsPiece) -> NDArray[np.floating]:
        where = self.artifact.store.uri(piece.vectors)
        try:
            stored_ND: NDArray[np.floating] = np.load(io.BytesIO(self._object(piece.vectors)), allow_pickle=False)
        except (ValueError, EOFError):
            raise DataError(f"{where}: not a .npy array of numbers; embed the texts again") from None
        expected = (piece.rows, self.dimensions)
        if stored_ND.shape != expected or stored_ND.dtype.name not in _DTYPES:
            found = f"{stored_ND.dtype.name} {list(stored_ND.shape)}"
            raise DataError(f"{where}: {found}, expected float32 or float16 {list(expected)}; embed the texts again")
        finite_N = np.isfinite(stored_ND).all(axis=1)
        if not finite_N.all():
            row = int(np.flatnonzero(~finite_N)[0])
            raise DataError(f"{where}: piece {piece.name}, row {row}: NaN or infinity in the vector; check the encoder")
        return stored_ND

    def _object(self, key: str) -> bytes:
        where = self.artifact.store.uri(key)
        if key not in self._sha256:
            raise DataError(f"{where}: not among the artifact's files; embed the texts again")
        try:
            data = self.artifact.store.read(key)
        except FileNotFoundError:
            raise DataError(f"{where}: missing; copy the artifact again, or embed the texts again") from None
        if hashlib.sha256(data).hexdigest() != self._sha256[key]:
            raise DataError(f"{where}: checksum does not match; copy the artifact again, or embed the texts again")
        return data


def rows_of(table: pa.Table, lang: str) -> NDArray[np.int64]:
    """Numbers of the rows of a language."""
    return np.flatnonzero(pc.equal(table.column("lang"), lang).to_numpy())


def fitting_calibration(uri: str, embeddings: Artifact) -> Calibration:
    """A calibration that was fitted on embeddings of the same encoder. Raises DataError."""
    from ccp_ray.calibration import Calibration

    fitted = open_artifact(uri, "calibration").summary.get("encoder")
    if fitted is not None and fitted not in {ref.fingerprint for ref in embeddings.inputs if ref.role == "encoder"}:
        raise DataError(f"{uri}: fitted on another encoder's embeddings; calibrate on these")
    return Calibration.open(uri)
