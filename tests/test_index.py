"""Index: shards of whole pieces from an embeddings artifact made by hand, calibrated or not, resumed or not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.artifact import Artifact, InputRef, Output, Request, open_output, verify_artifact
from ccp_ray.calibration import Calibration
from ccp_ray.errors import DataError, DriftError, UsageError
from ccp_ray.index import IndexConfig, index, plan_shards, unit
from ccp_ray.ledger import put_bytes
from ccp_ray.search import Index

D = 8
ENCODER = InputRef(role="encoder", uri="package://some/encoder", fingerprint="e" * 64)


def embeddings(uri: Path | str, sizes=(5, 7, 4), languages=("de", "en"), dimensions=D, dtype="float32") -> Artifact:
    rng = np.random.default_rng(0)
    output = open_output(str(uri), Request(kind="embeddings", config={"sizes": list(sizes)}, inputs=[ENCODER]))
    assert isinstance(output, Output)
    files, pieces, total = [], [], 0
    for number, count in enumerate(sizes):
        vectors = (3 * rng.normal(size=(count, dimensions))).astype(dtype)
        langs = [languages[(number + i) % len(languages)] for i in range(count)]
        rows = [{"id": f"{total + i:04d}", "lang": lang, "text": f"t{total + i}"} for i, lang in enumerate(langs)]
        total += count
        array, table = io.BytesIO(), io.BytesIO()
        np.save(array, vectors)
        pq.write_table(pa.Table.from_pylist(rows), table)
        keys = {"vectors": f"vectors/{number}.npy", "table": f"rows/{number}.parquet"}
        files += [
            put_bytes(output.store, key, data.getvalue())
            for key, data in zip(keys.values(), (array, table), strict=True)
        ]
        counts = {lang: langs.count(lang) for lang in sorted(set(langs))}
        pieces.append({"name": str(number), "rows": count, **keys, "languages": counts})
    files.append(put_bytes(output.store, "pieces.json", json.dumps(pieces).encode()))
    return output.finish(files, {"rows": total, "dimensions": dimensions, "dtype": dtype})


def calibration(uri: Path | str, languages=("de", "en"), dimensions=D) -> Calibration:
    rng = np.random.default_rng(1)
    made = Calibration(
        languages[0],
        {
            lang: (
                rng.normal(size=dimensions).astype(np.float32),
                rng.uniform(0.5, 2, size=dimensions).astype(np.float32),
                np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0].astype(np.float32),
            )
            for lang in languages
        },
    )
    output = open_output(str(uri), Request(kind="calibration", config={"languages": list(languages)}))
    assert isinstance(output, Output)
    output.finish([made.save(output.store)], {"pivot": languages[0]})
    return made


def stored(artifact: Artifact) -> tuple[np.ndarray, pa.Table]:
    """All vectors of all shards and their rows."""
    vectors, tables = [], []
    for shard in artifact.summary["shards"]:
        raw = np.frombuffer(artifact.store.read(f"shards/{shard['name']}.faiss"), dtype=np.uint8)
        built = faiss.deserialize_index(raw)
        assert built.ntotal == shard["rows"]
        assert built.metric_type == faiss.METRIC_INNER_PRODUCT
        vectors.append(built.reconstruct_n(0, built.ntotal))
        tables.append(pq.read_table(pa.BufferReader(artifact.store.read(f"shards/{shard['name']}.parquet"))))
    return np.concatenate(vectors), pa.concat_tables(tables)


def source_rows(artifact: Artifact) -> tuple[np.ndarray, list[str], list[str]]:
    """Vectors, ids and languages straight from the files."""
    pieces = json.loads(artifact.store.read("pieces.json"))
    vectors = [np.load(io.BytesIO(artifact.store.read(piece["vectors"]))) for piece in pieces]
    tables = [pq.read_table(pa.BufferReader(artifact.store.read(piece["table"]))) for piece in pieces]
    table = pa.concat_tables(tables)
    return np.concatenate(vectors), table["id"].to_pylist(), table["lang"].to_pylist()


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
    for key in ("artifact.json", "_ledger/index/shard-00001.json", "shards/shard-00001.faiss"):
        broken.store.delete(key)
    kept = (tmp_path / "broken" / "shards" / "shard-00000.faiss").stat().st_mtime_ns
    again = index(source.uri, str(tmp_path / "broken"), config)
    assert again.fingerprint == whole.fingerprint
    assert (tmp_path / "broken" / "shards" / "shard-00000.faiss").stat().st_mtime_ns == kept


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
