"""Reading embeddings: what was written comes back, and nothing damaged is ever used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from embeddings_factory import one_language, write_embeddings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccp_ray.artifact import Request, open_output
from ccp_ray.calibration import Calibration
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


@pytest.fixture
def three_pieces(tmp_path: Path) -> tuple[Embeddings, np.ndarray, list[tuple[str, str, str]]]:
    """Ten rows in pieces of 4, 1 and 5, opened; their vectors and rows."""
    whole = vectors(10)
    table = [(f"r{i}", "ab"[i % 2], f"text {i}") for i in range(10)]
    write_embeddings(str(tmp_path / "e"), [(whole[a:b], table[a:b]) for a, b in ((0, 4), (4, 5), (5, 10))])
    return Embeddings.open(str(tmp_path / "e")), whole, table


NUMBERS = st.integers(-10, 9)
BOUND = st.none() | st.integers(-13, 13)


@given(key=NUMBERS | st.lists(NUMBERS, max_size=8) | st.slices(10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_by_number_are_those_of_the_whole_array(three_pieces, key) -> None:
    source, whole, _ = three_pieces
    assert len(source) == 10
    expected = whole[np.array(key, dtype=np.int64)] if isinstance(key, list) else whole[key]
    got = source[key]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    if isinstance(key, list):
        np.testing.assert_array_equal(source[np.array(key, dtype=np.int32)], expected)


@given(start=st.integers(-13, 13), stop=BOUND)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_texts_and_tables_are_slices_of_the_rows(three_pieces, start, stop) -> None:
    source, _, table = three_pieces
    expected = table[start:stop]
    assert source.ids(start, stop) == [name for name, _, _ in expected]
    assert source.texts(start, stop) == [text for _, _, text in expected]
    assert [tuple(row.values()) for row in source.table(start, stop).to_pylist()] == expected


def test_only_pieces_that_are_asked_for_are_read_and_the_last_ones_kept(tmp_path: Path, monkeypatch) -> None:
    write_embeddings(str(tmp_path / "e"), [one_language(vectors(4, n), "aa", 4 * n) for n in range(5)])
    source = Embeddings.open(str(tmp_path / "e"))
    seen: list[str] = []
    read = source._object
    monkeypatch.setattr(source, "_object", lambda key: (seen.append(key), read(key))[1])
    assert source[5:7].shape == (2, 6)
    assert source[[4, 6]].shape == (2, 6)
    assert seen == ["vectors/00001.npy"]
    assert source.ids(6, 9) == ["aa6", "aa7", "aa8"]
    assert seen[1:] == ["rows/00001.parquet", "rows/00002.parquet"]
    for start in range(0, 20, 2):  # walking reads each piece once
        source[start : start + 2]
    assert [key for key in seen[3:] if "00001" not in key] == [f"vectors/{n:05d}.npy" for n in (0, 2, 3, 4)]
    assert source._recent_vectors.cache_info().currsize == 2


@pytest.mark.parametrize("key", [10, -11, [3, 10]])
def test_a_row_outside_is_an_index_error(three_pieces, key) -> None:
    with pytest.raises(IndexError, match=r"row (10|-11): .* has 10 rows"):
        three_pieces[0][key]


@pytest.mark.parametrize("key", ["3", 1.0, [0.5], [[1, 2]], [True, False], None])
def test_what_is_no_row_number_is_a_type_error(three_pieces, key) -> None:
    with pytest.raises(TypeError, match="by a number, a slice or a sequence of numbers"):
        three_pieces[0][key]


def test_calibrated_reading(tmp_path: Path) -> None:
    mixed = vectors(4, 1), [("a0", "aa", "x"), ("b0", "bb", "y"), ("a1", "aa", "z"), ("b1", "bb", "w")]
    write_embeddings(str(tmp_path / "e"), [mixed, one_language(vectors(3, 2), "aa", 2)])
    rng = np.random.default_rng(4)
    steps = {
        lang: (*(rng.uniform(1, 2, size=6).astype(np.float32) for _ in range(2)), np.eye(6, dtype=np.float32))
        for lang in ("aa", "bb")
    }
    output = open_output(str(tmp_path / "c"), Request(kind="calibration", config={}))
    fitted = Calibration("aa", steps)
    output.finish([fitted.save(output.store)], fitted.summary())
    source = Embeddings.open(str(tmp_path / "e"), calibration=str(tmp_path / "c"))
    whole = np.concatenate([vectors(4, 1), vectors(3, 2)])
    expected = np.stack(
        [fitted.apply(whole[i : i + 1], lang)[0] for i, lang in enumerate(["aa", "bb", "aa", "bb", "aa", "aa", "aa"])]
    )
    np.testing.assert_allclose(source[:], expected, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([v for v, _ in source]), expected, rtol=1e-6)
    np.testing.assert_allclose(source.language("bb"), expected[[1, 3]], rtol=1e-6)
    np.testing.assert_allclose(source[3], expected[3], rtol=1e-6)


def test_a_calibration_of_another_encoder_is_refused(tmp_path: Path, two_pieces: str) -> None:
    output = open_output(str(tmp_path / "c"), Request(kind="calibration", config={}))
    output.finish([], {"pivot": "aa", "encoder": "another"})
    with pytest.raises(DataError, match="fitted on another encoder's embeddings"):
        Embeddings.open(two_pieces, calibration=str(tmp_path / "c"))
