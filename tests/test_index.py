"""Index: shards of whole pieces from an embeddings artifact made by hand, calibrated or not, resumed or not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_inputs import ENCODER, D, calibration, embeddings, source_rows, stored

from ccp_ray.artifact import Request, open_output, verify_artifact
from ccp_ray.errors import DataError, DriftError, UsageError
from ccp_ray.index import IndexConfig, index, plan_shards, plan_task, unit
from ccp_ray.ledger import Entry, Ledger
from ccp_ray.search import Index


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_shards_are_whole_pieces_in_order_and_as_full_as_can_be(rows, most):
    shards = plan_shards(rows, most)
    assert [number for shard in shards for number in shard] == list(range(len(rows)))
    sizes = [sum(rows[number] for number in shard) for shard in shards]
    for shard, size in zip(shards, sizes, strict=True):
        assert size <= most or len(shard) == 1
    for size, following in zip(sizes[:-1], shards[1:], strict=True):
        assert size + rows[following[0]] > most


def test_unit_leaves_a_zero_vector_zero():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(unit(rows), [[0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize(("shard_rows", "shards"), [(1000, [16]), (12, [12, 4]), (1, [5, 7, 4])])
def test_an_index_holds_every_row_once_at_unit_length(ray_local, tmp_path, shard_rows, shards):
    source = embeddings(tmp_path / "embeddings")
    built = index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=shard_rows))
    assert [shard["rows"] for shard in built.summary["shards"]] == shards
    assert (built.summary["rows"], built.summary["dimensions"], built.summary["calibrated"]) == (16, D, False)
    assert built.summary["encoder"] == ENCODER.model_dump()
    assert verify_artifact(built) == []
    vectors, ids, languages = source_rows(source)
    held, table = stored(built)
    np.testing.assert_allclose(held, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rtol=1e-6, atol=1e-7)
    assert table["id"].to_pylist() == ids
    assert table["lang"].to_pylist() == languages


def test_every_row_finds_itself(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings", dtype="float16")
    built = index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=6, dtype="float16"))
    vectors, ids, _ = source_rows(source)
    hits = Index.open(built.uri).search(vectors.astype(np.float32), 1)
    assert [one[0].id for one in hits] == ids
    assert min(one[0].score for one in hits) > 0.999


def test_half_precision_halves_the_shards(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings", sizes=(2000,), dimensions=64)
    sizes = {}
    for dtype in ("float32", "float16"):
        built = index(source.uri, str(tmp_path / dtype), IndexConfig(dtype=dtype))
        sizes[dtype] = sum(record.bytes for record in built.files if record.path.endswith(".faiss"))
    assert sizes["float16"] / sizes["float32"] == pytest.approx(0.5, abs=0.01)


def test_a_calibrated_index_holds_calibrated_vectors(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings")
    fitted = calibration(tmp_path / "calibration")
    built = index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=6), str(tmp_path / "calibration"))
    vectors, _, languages = source_rows(source)
    held, _ = stored(built)
    for row, (vector, lang) in enumerate(zip(vectors, languages, strict=True)):
        mean, scale, rotation = fitted.parameters(lang)
        expected = ((vector - mean) / scale) @ rotation  # the rotation keeps the length
        np.testing.assert_allclose(held[row], expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)
    assert built.summary["calibrated"]
    assert {ref.role for ref in built.inputs} == {"embeddings", "calibration"}


def test_another_calibration_names_shards_and_quantiser_anew_and_a_copy_of_the_same_does_not(tmp_path):
    source = embeddings(tmp_path / "embeddings")
    for name, seed in (("one", 1), ("copy", 1), ("other", 2)):
        calibration(tmp_path / name, seed=seed)
    names = {}
    for place in ("one", "copy", "other", None):
        fitted = str(tmp_path / place) if place else None
        task = plan_task(source.uri, IndexConfig(factory="IVF2,SQ8", shard_rows=6), fitted)
        shards = [task.making(None).name(task.embeddings, numbers) for numbers in task.groups()]
        names[place] = [*shards, task.quantiser_key()]
    assert names["copy"] == names["one"]
    assert len({name for place in ("one", "other", None) for name in names[place]}) == 3 * len(names["one"])


def test_the_same_index_again_is_done_and_another_is_refused(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings")
    first = index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=6))
    assert index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=6)) == first
    with pytest.raises(DriftError, match="shard_rows: 6 -> 7"):
        index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=7))
    calibration(tmp_path / "calibration")
    with pytest.raises(DriftError, match="calibration"):
        index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=6), str(tmp_path / "calibration"))


def test_a_killed_build_continues_to_the_same_bytes(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings")
    config = IndexConfig(shard_rows=6)
    whole = index(source.uri, str(tmp_path / "whole"), config)
    broken = index(source.uri, str(tmp_path / "broken"), config)
    first, second = broken.summary["shards"][:2]
    for key in ("artifact.json", f"_ledger/index/{second['name']}.json", second["vectors"]):
        broken.store.delete(key)
    kept = (tmp_path / "broken" / first["vectors"]).stat().st_mtime_ns
    again = index(source.uri, str(tmp_path / "broken"), config)
    assert again.fingerprint == whole.fingerprint
    assert (tmp_path / "broken" / first["vectors"]).stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"languages": ("de", "sw")}, "no language 'en'"), ({"dimensions": 4}, "fitted on 4 dimensions.* have 8")],
)
def test_a_calibration_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path, changes, words):
    source = embeddings(tmp_path / "embeddings")
    calibration(tmp_path / "calibration", **changes)
    with pytest.raises(DataError, match=words):
        index(source.uri, str(tmp_path / "index"), None, str(tmp_path / "calibration"))
    assert not (tmp_path / "index").exists()


def test_damaged_vectors_stop_the_build_and_nothing_is_left(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings")
    path = tmp_path / "embeddings" / "vectors" / "1.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"vectors/1\.npy: checksum does not match"):
        index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=1))
    assert not (tmp_path / "index").exists()


def test_inputs_must_be_finished_artifacts_of_their_kind(tmp_path):
    source = embeddings(tmp_path / "embeddings")
    with pytest.raises(UsageError, match="holds no artifact"):
        index(str(tmp_path / "none"), str(tmp_path / "index"))
    with pytest.raises(UsageError, match="embeddings artifact, expected calibration"):
        index(source.uri, str(tmp_path / "index"), None, source.uri)
    assert not (tmp_path / "index").exists()


def spoilt_piece(kind: str) -> np.ndarray:
    vectors = np.ones((7, D + (kind == "width")), dtype=np.float32)
    if kind == "nan":
        vectors[3, 0] = np.nan
    return vectors


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("width", rf"vectors/1\.npy: float32 \[7, {D + 1}\], expected .* \[7, {D}\]"),
        ("nan", r"vectors/1\.npy: piece 1, row 3: NaN or infinity"),
    ],
)
def test_a_piece_of_another_width_or_with_nan_is_named_and_nothing_is_left(ray_local, tmp_path, kind, words):
    source = embeddings(tmp_path / "embeddings", spoilt={1: spoilt_piece(kind)})
    with pytest.raises(DataError, match=words):
        index(source.uri, str(tmp_path / "index"), IndexConfig(shard_rows=5))
    assert not (tmp_path / "index").exists()


def test_half_done_embeddings_tell_how_far_they_are_and_what_continues_them(tmp_path):
    uri = str(tmp_path / "embeddings")
    output = open_output(uri, Request(kind="embeddings", config={}))
    for name in ("a", "c"):
        Ledger(output.store, "_ledger/pieces").commit(name, Entry(rows=10))
    again = "run the same embed command again"
    with pytest.raises(UsageError, match=f"embeddings: unfinished embeddings, 2 pieces are committed; {again}"):
        index(uri, str(tmp_path / "index"))
    output.store.write("_plan/pieces.json", json.dumps({"pieces": {"a": 1000, "b": 700, "c": 300}}).encode())
    with pytest.raises(UsageError, match=rf"2 of 3 pieces \(1,300 of 2,000 rows\) are committed; {again}"):
        index(uri, str(tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_embeddings_without_rows_are_refused(tmp_path):
    source = embeddings(tmp_path / "embeddings", sizes=(0, 0))
    with pytest.raises(DataError, match="holds no rows"):
        index(source.uri, str(tmp_path / "index"))
    assert not (tmp_path / "index").exists()


def test_an_exact_index_of_inner_products_holds_vectors_as_they_are(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings")
    built = index(source.uri, str(tmp_path / "index"), IndexConfig(metric="inner_product"))
    held, _ = stored(built)
    np.testing.assert_array_equal(held, source_rows(source)[0])
    told = {name: built.summary[name] for name in ("metric", "factory", "exact", "search_parameters", "recall")}
    assert told == {
        "metric": "inner_product",
        "factory": "Flat",
        "exact": True,
        "search_parameters": "",
        "recall": None,
    }
