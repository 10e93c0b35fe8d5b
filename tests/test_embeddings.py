"""Reading embeddings: what was written comes back, and nothing damaged is ever used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError


def vectors(rows: int, seed: int = 0, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.fixture
def two_pieces(tmp_path: Path) -> str:
    mixed = vectors(4, 1), [("a0", "aa", "x"), ("b0", "bb", "y"), ("a1", "aa", "z"), ("b1", "bb", "w")]
    write_embeddings(str(tmp_path / "e"), [mixed, one_language(vectors(3, 2), "aa", 2)])
    return str(tmp_path / "e")


def test_reads_what_was_written(two_pieces: str) -> None:
    source = Embeddings.open(two_pieces)
    assert (source.rows, source.dimensions, source.languages) == (7, 6, {"aa": 5, "bb": 2})
    read = list(source)
    np.testing.assert_array_equal(np.concatenate([v for v, _ in read]), np.concatenate([vectors(4, 1), vectors(3, 2)]))
    assert [i for _, table in read for i in table.column("id").to_pylist()] == [
        "a0",
        "b0",
        "a1",
        "b1",
        "aa2",
        "aa3",
        "aa4",
    ]
    assert read[0][0].dtype == np.float32


def test_a_language_keeps_its_order_over_pieces(two_pieces: str) -> None:
    source = Embeddings.open(two_pieces)
    expected = np.concatenate([vectors(4, 1)[[0, 2]], vectors(3, 2)])
    np.testing.assert_array_equal(source.language("aa"), expected)
    for limit in (1, 2, 4, 99):
        np.testing.assert_array_equal(source.language("aa", limit), expected[:limit])
    with pytest.raises(DataError, match="no language 'cc'; it holds aa, bb"):
        source.language("cc")


def test_limit_reads_no_more_pieces_than_needed(two_pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Embeddings.open(two_pieces)
    seen: list[str] = []
    read = source.read
    monkeypatch.setattr(source, "read", lambda piece: (seen.append(piece.name), read(piece))[1])
    source.language("aa", 2)
    source.language("bb")
    assert seen == ["00000", "00000"]


@given(rows=st.lists(st.sampled_from("abc"), min_size=1, max_size=30), cuts=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_rows_in_are_rows_out(tmp_path_factory: pytest.TempPathFactory, rows: list[str], cuts: int) -> None:
    uri = str(tmp_path_factory.mktemp("e") / "out")
    all_ND = vectors(len(rows)).astype(np.float16)
    parts = [part for part in np.array_split(np.arange(len(rows)), cuts) if len(part)]
    write_embeddings(uri, [(all_ND[part], [(str(i), rows[i], "t") for i in part]) for part in parts])
    source = Embeddings.open(uri)
    assert source.languages == {lang: rows.count(lang) for lang in sorted(set(rows))}
    for lang in source.languages:
        chosen = [i for i, other in enumerate(rows) if other == lang]
        np.testing.assert_array_equal(source.language(lang), all_ND[chosen].astype(np.float32))


@pytest.mark.parametrize("key", ["vectors/00001.npy", "rows/00001.parquet", "pieces.json"])
def test_a_flipped_bit_is_an_error(two_pieces: str, key: str) -> None:
    file = Path(two_pieces, key)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=rf"{key}: checksum does not match"):
        list(Embeddings.open(two_pieces))


def test_a_missing_piece_is_named(two_pieces: str) -> None:
    Path(two_pieces, "vectors/00001.npy").unlink()
    with pytest.raises(DataError, match=r"vectors/00001\.npy: missing"):
        list(Embeddings.open(two_pieces))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_named(tmp_path: Path, bad: float) -> None:
    wrong = vectors(5)
    wrong[3, 2] = bad
    write_embeddings(str(tmp_path / "e"), [one_language(vectors(2), "aa"), one_language(wrong, "aa", 2)])
    with pytest.raises(DataError, match="piece 00001, row 3: NaN or infinity"):
        Embeddings.open(str(tmp_path / "e")).language("aa")


def test_shape_and_type_are_checked(tmp_path: Path) -> None:
    short = vectors(2), [("a", "aa", "x"), ("b", "aa", "y"), ("c", "aa", "z")]
    write_embeddings(str(tmp_path / "short"), [short])
    with pytest.raises(DataError, match=r"float32 \[2, 6\], expected float32 or float16 \[3, 6\]"):
        list(Embeddings.open(str(tmp_path / "short")))
    write_embeddings(str(tmp_path / "wide"), [one_language(vectors(2).astype(np.float64), "aa")])
    with pytest.raises(DataError, match="float64"):
        list(Embeddings.open(str(tmp_path / "wide")))


def test_only_a_finished_embeddings_artifact_opens(tmp_path: Path, two_pieces: str) -> None:
    with pytest.raises(UsageError, match="holds no artifact"):
        Embeddings.open(str(tmp_path / "nothing"))
    manifest = Path(two_pieces, "artifact.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"kind": "corpus"}))
    with pytest.raises(UsageError, match="holds a corpus artifact, expected embeddings"):
        Embeddings.open(two_pieces)
