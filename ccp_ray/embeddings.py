"""Read an embeddings artifact: vectors and their rows, piece by piece, checked.

    vectors/NAME.npy      [rows, D] float32 or float16
    rows/NAME.parquet     id, lang, text; row i belongs to vector i
    pieces.json           the pieces in order, with rows by language

A piece is read whole and its two objects are hashed against the manifest before a byte of them is used, so a
truncated upload or a flipped bit is an error and never a wrong neighbour. For 65,536 rows of 384 float32 (100 MB)
hashing takes 0.06 s of the 0.2 s that reading them takes. Memory: two copies of one piece.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError

FloatArray = NDArray[np.float32]

_DTYPES = ("float32", "float16")
_COLUMNS = ("id", "lang", "text")


class EmbeddingsPiece(StrictModel):
    """One piece, as pieces.json has it."""

    name: str
    rows: int = Field(ge=0)
    vectors: str
    table: str
    languages: dict[str, int]


class Embeddings:
    """A finished embeddings artifact. Iterating gives (vectors, table) of every piece, in order."""

    def __init__(self, artifact: Artifact, pieces: list[EmbeddingsPiece]) -> None:
        self.artifact, self.pieces = artifact, pieces
        self.rows = sum(piece.rows for piece in pieces)
        self.dimensions = int(artifact.summary["dimensions"])
        counts: dict[str, int] = {}
        for piece in pieces:
            for lang, rows in piece.languages.items():
                counts[lang] = counts.get(lang, 0) + rows
        self.languages = dict(sorted(counts.items()))
        """Rows by language."""
        self._sha256 = {record.path: record.sha256 for record in artifact.files}

    @classmethod
    def open(cls, uri: str) -> Embeddings:
        """Raises UsageError where there is no finished embeddings artifact, DataError for a damaged piece list."""
        artifact = open_artifact(uri, "embeddings")
        reader = cls(artifact, [])
        where = artifact.store.uri("pieces.json")
        try:
            pieces = [EmbeddingsPiece.model_validate(piece) for piece in json.loads(reader._object("pieces.json"))]
        except (ValidationError, ValueError, TypeError):
            raise DataError(f"{where}: not a list of pieces; embed the texts again") from None
        return cls(artifact, pieces)

    def __iter__(self) -> Iterator[tuple[FloatArray, pa.Table]]:
        return (self.read(piece) for piece in self.pieces)

    def read(self, piece: EmbeddingsPiece) -> tuple[FloatArray, pa.Table]:
        """Vectors [rows, D] as float32 and the table (id, lang, text) whose row i belongs to vector i.

        Raises DataError naming the piece for a checksum, shape or type that is not as recorded, and the row for a
        vector with NaN or infinity.
        """
        vectors_ND = self._vectors(piece)
        table = pq.read_table(io.BytesIO(self._object(piece.table)))
        missing = [name for name in _COLUMNS if name not in table.column_names]
        if missing or table.num_rows != piece.rows:
            where = self.artifact.store.uri(piece.table)
            wrong = f"no column {missing[0]!r}" if missing else f"{table.num_rows} rows, expected {piece.rows}"
            raise DataError(f"{where}: {wrong}; embed the texts again")
        return vectors_ND, table.select(list(_COLUMNS))

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

    def _vectors(self, piece: EmbeddingsPiece) -> FloatArray:
        where = self.artifact.store.uri(piece.vectors)
        try:
            stored_ND = np.load(io.BytesIO(self._object(piece.vectors)), allow_pickle=False)
        except (ValueError, EOFError):
            raise DataError(f"{where}: not a .npy array of numbers; embed the texts again") from None
        expected = (piece.rows, self.dimensions)
        if stored_ND.shape != expected or stored_ND.dtype.name not in _DTYPES:
            found = f"{stored_ND.dtype.name} {list(stored_ND.shape)}"
            raise DataError(f"{where}: {found}, expected float32 or float16 {list(expected)}; embed the texts again")
        vectors_ND: FloatArray = stored_ND.astype(np.float32, copy=False)
        finite_N = np.isfinite(vectors_ND).all(axis=1)
        if not finite_N.all():
            row = int(np.flatnonzero(~finite_N)[0])
            raise DataError(f"{where}: piece {piece.name}, row {row}: NaN or infinity in the vector; check the encoder")
        return vectors_ND

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
    return np.flatnonzero(np.array(table.column("lang").to_pylist(), dtype=object) == lang)
