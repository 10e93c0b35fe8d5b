"""Search: the same hits and scores at any number of shards, against a brute-force oracle, ties included."""

from __future__ import annotations

import json
from collections.abc import Sequence

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_factory import D, build, faiss_index, queries, rows

from ccp_ray.artifact import Output, Request, open_output
from ccp_ray.errors import DataError, StoreError, UsageError
from ccp_ray.search import Hit, Index


def oracle(vectors, table, queries, k, lang=None) -> list[list[tuple[str, float]]]:
    """(id, cosine) by score, then id, in float64: one sum a pair."""
    wide = vectors.astype(np.float64)
    units = queries.astype(np.float32) / np.linalg.norm(queries.astype(np.float32), axis=1, keepdims=True)
    found = []
    for query in units.astype(np.float64):
        scored = [
            (-float((row * query).sum()), entry["id"])
            for row, entry in zip(wide, table, strict=True)
            if lang in (None, entry["lang"])
        ]
        found.append([(name, -score) for score, name in sorted(scored)[:k]])
    return found


def found(hits: Sequence[Sequence[Hit]]) -> list[list[tuple[str, float]]]:
    return [[(hit.id, hit.score) for hit in one] for one in hits]


@pytest.fixture(scope="module")
def at_shards(tmp_path_factory) -> dict[int, Index]:
    """The same 200 rows, 40 of them one vector, at 1, 2, 7 and 16 shards."""
    folder = tmp_path_factory.mktemp("indexes")
    vectors, table = rows(200, copies=40)
    for shards in (1, 2, 7, 16):
        build(folder / str(shards), vectors, table, shards)
    return {shards: Index.open(str(folder / str(shards))) for shards in (1, 2, 7, 16)}


@pytest.mark.parametrize("k", [1, 3, 10, 41, 200, 500])
@pytest.mark.parametrize("lang", [None, "sw"])
def test_hits_and_scores_are_the_oracles_at_any_number_of_shards(at_shards, k, lang):
    vectors, table = rows(200, copies=40)
    asked = np.concatenate([queries(4), vectors[:1], -vectors[:1]])  # the copies come first, then last
    expected = oracle(vectors, table, asked, k, lang)
    for index in at_shards.values():
        assert found(index.search(asked, k, lang)) == expected  # to the last bit


def test_ties_are_ordered_by_id(at_shards):
    vectors, table = rows(200, copies=40)
    alike = sorted(entry["id"] for row, entry in zip(vectors, table, strict=True) if np.array_equal(row, vectors[0]))
    assert len(alike) == 41
    for index in at_shards.values():
        (hits,) = index.search(vectors[:1], 7)
        assert [hit.id for hit in hits] == alike[:7]
        assert len({hit.score for hit in hits}) == 1


def test_a_hit_carries_its_row(at_shards):
    vectors, table = rows(200, copies=40)
    (hits,) = at_shards[7].search(vectors[5:6], 1)
    assert hits[0] == Hit(table[5]["id"], pytest.approx(1), table[5]["lang"], table[5]["text"])


def test_scores_do_not_depend_on_the_other_queries(at_shards):
    asked = queries(9)
    together = at_shards[2].search(asked, 5)
    alone = [at_shards[2].search(asked[i : i + 1], 5)[0] for i in range(9)]
    assert together == alone


def test_the_length_of_a_query_does_not_matter(at_shards):
    asked = queries(3)
    one, other = at_shards[1].search(asked, 5), at_shards[1].search(asked * 64, 5)
    assert one == other


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 40), st.integers(1, 45), st.integers(0, 10**6))
def test_any_index_is_the_oracle(tmp_path_factory, count, shards, copies, k, seed):
    vectors, table = rows(count, seed, min(copies, count - 1))
    folder = tmp_path_factory.mktemp("index")
    build(folder, vectors, table, shards)  # shards without rows are possible
    asked = np.concatenate([queries(2, seed), vectors[:1]])
    assert found(Index.open(str(folder)).search(asked, k)) == oracle(vectors, table, asked, k)


def test_near_ties_in_the_last_bits_are_ordered_by_their_true_score(tmp_path):
    """50 vectors whose float32 scores cannot tell them apart reliably."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=D)
    vectors = (base + 1e-7 * rng.normal(size=(50, D))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = [{"id": f"{i:02d}", "lang": "en", "text": ""} for i in rng.permutation(50)]
    asked = base[None].astype(np.float32)
    for shards in (1, 7):
        build(tmp_path / str(shards), vectors, table, shards)
        got = Index.open(str(tmp_path / str(shards))).search(asked, 5)
        assert found(got) == oracle(vectors, table, asked, 5)


def test_half_precision_shards_agree_with_each_other(tmp_path):
    vectors, table = rows(120, copies=20)
    results = []
    for shards in (1, 2, 7):
        build(tmp_path / str(shards), vectors, table, shards, "SQfp16")
        results.append(Index.open(str(tmp_path / str(shards))).search(queries(4), 12))
    assert results[0] == results[1] == results[2]
    stored = vectors.astype(np.float16).astype(np.float32)
    assert found(results[0]) == oracle(stored, table, queries(4), 12)


def test_a_language_without_rows_has_no_hits(at_shards):
    assert at_shards[2].search(queries(2), 5, "xx") == [[], []]


def test_no_queries_have_no_hits(at_shards):
    assert at_shards[2].search(np.empty((0, D), dtype=np.float32), 5) == []


def test_a_zero_query_is_equally_far_from_all(at_shards):
    _, table = rows(200, copies=40)
    first = sorted(entry["id"] for entry in table)[:5]
    for index in at_shards.values():
        (hits,) = index.search(np.zeros((1, D), dtype=np.float32), 5)
        assert [(hit.id, hit.score) for hit in hits] == [(name, 0.0) for name in first]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_that_is_no_vector_is_refused(at_shards, bad):
    asked = queries(3)
    asked[1, 2] = bad
    with pytest.raises(UsageError, match="query 1: NaN or infinity"):
        at_shards[2].search(asked, 5)


@pytest.mark.parametrize("shape", [(2, D + 1), (2, D - 1), (D,), (1, 2, D)])
def test_queries_of_another_width_are_refused(at_shards, shape):
    with pytest.raises(UsageError, match=rf"expected \[queries, {D}\]"):
        at_shards[2].search(np.ones(shape, dtype=np.float32), 5)


@pytest.mark.parametrize("k", [0, -3])
def test_no_hits_are_no_question(at_shards, k):
    with pytest.raises(UsageError, match="k must be at least 1"):
        at_shards[2].search(queries(1), k)


@pytest.mark.parametrize("kind", ["faiss", "parquet"])
@pytest.mark.parametrize("change", ["flip", "cut", "remove"])
def test_an_altered_shard_is_refused_by_name(tmp_path, kind, change):
    build(tmp_path / "index", *rows(20), 2)
    path = tmp_path / "index" / "shards" / f"shard-00001.{kind}"
    data = bytearray(path.read_bytes())
    if change == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if change == "flip" else data[:-1])
    if change == "remove":
        path.unlink()
    with pytest.raises(StoreError, match=rf"shard-00001\.{kind}.*make this artifact again"):
        Index.open(str(tmp_path / "index"))


def test_an_index_on_s3_gives_the_same_hits(moto_bucket, at_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    build(f"{moto_bucket.uri}/index", *rows(200, copies=40), 2)
    asked = queries(3)
    assert Index.open(f"{moto_bucket.uri}/index").search(asked, 12) == at_shards[2].search(asked, 12)


def test_an_index_that_is_built_anew_under_the_same_uri_is_not_taken_from_the_cache(moto_bucket, tmp_path, monkeypatch):
    """Same URI, same keys, other rows: a copy kept by name would answer for the old ones."""
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    uri = f"{moto_bucket.uri}/index"
    for seed in (1, 2):
        vectors, table = rows(30, seed)
        built = build(uri, vectors, table, 2)
        asked = queries(2)
        assert found(Index.open(uri).search(asked, 4)) == oracle(vectors, table, asked, 4)
        built.store.delete("artifact.json")


def test_what_is_no_finished_index_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no artifact"):
        Index.open(str(tmp_path / "none"))
    open_output(str(tmp_path / "started"), Request(kind="index", config={}))
    with pytest.raises(UsageError, match="unfinished"):
        Index.open(str(tmp_path / "started"))
    output = open_output(str(tmp_path / "corpus"), Request(kind="corpus", config={}))
    assert isinstance(output, Output)
    output.finish([], {})
    with pytest.raises(UsageError, match="holds a corpus artifact, expected index"):
        Index.open(str(tmp_path / "corpus"))


def test_the_table_is_what_the_hits_are(at_shards):
    asked = queries(5)
    table = at_shards[7].search_table(asked, 4, "en")
    hits = at_shards[7].search(asked, 4, "en")
    assert table.column_names == ["query", "rank", "id", "score", "lang", "text"]
    assert table.column("query").to_pylist() == [q for q in range(5) for _ in range(4)]
    assert table.column("rank").to_pylist() == [1, 2, 3, 4] * 5
    assert [Hit(*row.values()) for row in table.select(Hit._fields).to_pylist()] == [h for one in hits for h in one]


def test_many_queries_at_once_and_few_give_the_same(at_shards):
    """FAISS multiplies matrices for the first, and shards are searched in threads for the second."""
    asked = queries(50)
    for index in at_shards.values():
        few = [hits for start in range(0, 50, 7) for hits in index.search(asked[start : start + 7], 5)]
        assert index.search(asked, 5) == few == at_shards[1].search(np.asfortranarray(asked), 5)


@pytest.mark.parametrize("lang", ["de", None])
def test_inner_product_takes_rows_and_queries_as_they_are(tmp_path, lang):
    vectors, table = rows(90, copies=20)
    vectors = vectors * np.random.default_rng(1).uniform(0.01, 300, size=(90, 1)).astype(np.float32)
    asked = queries(5) * 7
    for shards in (1, 7):
        build(tmp_path / str(shards), vectors, table, shards, metric="inner_product")
        (hits, *_) = got = Index.open(str(tmp_path / str(shards))).search(asked, 12, lang)
        wide = [
            sorted(
                (-float((row * query).sum()), entry["id"])
                for row, entry in zip(vectors.astype(np.float64), table, strict=True)
                if lang in (None, entry["lang"])
            )[:12]
            for query in asked.astype(np.float64)
        ]
        assert found(got) == [[(name, -score) for score, name in one] for one in wide]
        assert hits[0].score > 10


@pytest.mark.parametrize("ordered", [True, False])
def test_a_language_in_one_run_and_one_scattered(tmp_path, ordered):
    vectors, table = rows(120, copies=30)
    if ordered:
        table.sort(key=lambda entry: entry["lang"])
    index = Index.open(build(tmp_path / "index", vectors, table, 3).uri)
    assert index.languages == ["de", "en", "sw"]
    asked = np.concatenate([queries(30), vectors[:1]])
    for lang in index.languages:
        assert found(index.search(asked, 9, lang)) == oracle(vectors, table, asked, 9, lang)


ANN = {
    "IVF4,Flat": ("nprobe=2", lambda sel: faiss.SearchParametersIVF(sel=sel, nprobe=2)),
    "HNSW8,Flat": ("efSearch=5", lambda sel: faiss.SearchParametersHNSW(sel=sel, efSearch=5)),
    "PCAR8,IVF4,PQ4x4": (
        "nprobe=3",
        lambda sel: faiss.SearchParametersPreTransform(index_params=faiss.SearchParametersIVF(sel=sel, nprobe=3)),
    ),
    "IVF4,SQ4,RFlat": (
        "nprobe=2,k_factor_rf=3",
        lambda sel: faiss.IndexRefineSearchParameters(
            k_factor=3, base_index_params=faiss.SearchParametersIVF(sel=sel, nprobe=2)
        ),
    ),
    "SQ4": ("", lambda sel: faiss.SearchParameters(sel=sel)),
}


@pytest.mark.parametrize("factory", ANN)
@pytest.mark.parametrize("lang", [None, "sw"])
def test_other_shards_give_what_faiss_gives(tmp_path, factory, lang):
    vectors, table = rows(400)
    parameters, of_search = ANN[factory]
    built = build(tmp_path / "i", vectors, table, 2, factory, exact=False, search_parameters=parameters)
    asked = queries(6)
    units = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    expected: list[list[tuple[float, str]]] = [[] for _ in asked]
    for part in np.array_split(np.arange(400), 2):
        allowed = [n for n, i in enumerate(part) if lang in (None, table[i]["lang"])]
        plain, selector = faiss_index(vectors[part], factory), faiss.IDSelectorBatch(allowed)
        for near, scores, numbers in zip(expected, *plain.search(units, 8, params=of_search(selector)), strict=True):
            near += [(-float(s), table[part[n]]["id"]) for s, n in zip(scores, numbers, strict=True) if n >= 0]
    got = Index.open(built.uri).search(asked, 8, lang)
    assert found(got) == [[(name, -score) for score, name in sorted(one)[:8]] for one in expected]
    assert {hit.lang for hits in got for hit in hits} == ({"de", "en", "sw"} if lang is None else {"sw"})


def test_fewer_than_k_may_be_found_in_lists_that_are_probed(tmp_path):
    vectors, table = rows(60)
    index = Index.open(build(tmp_path / "i", vectors, table, 1, "IVF8,Flat", exact=False).uri)
    hits = index.search(queries(4), 50)
    assert all(0 < len(one) < 50 for one in hits)
    assert all(hit.score > -1.01 for one in hits for hit in one)


def test_parameters_that_faiss_does_not_know_are_refused(tmp_path):
    built = build(tmp_path / "i", *rows(40), 1, "IVF2,Flat", exact=False, search_parameters="nonsense=3")
    words = r"shard-00000\.faiss: search_parameters=nonsense=3: this index does not know it \(it has nprobe\)"
    with pytest.raises(DataError, match=words):
        Index.open(built.uri)


def test_query_texts_need_the_encoder_that_the_index_was_built_with(tmp_path):
    import tiny_models

    folder = tiny_models.plain_folder(tmp_path / "encoder")
    from ccp_ray.model_source import model_reference

    built = build(tmp_path / "index", *rows(20), 1)
    manifest = tmp_path / "index" / "artifact.json"
    values = json.loads(manifest.read_text())
    values["summary"]["encoder"] = model_reference("encoder", str(folder)).model_dump()
    manifest.write_text(json.dumps(values))
    index = Index.open(built.uri)
    from ccp_ray.encoder import Encoder

    expected = Encoder.load(str(folder)).encode(["abc", "de"])
    np.testing.assert_allclose(index.queries.encode(["abc", "de"], None), expected, atol=1e-6)
    values["summary"]["encoding"] = {"pooling": "mean", "max_tokens": 4}  # how the index' own texts were embedded
    manifest.write_text(json.dumps(values))
    mean = Encoder.load(str(folder), pooling="mean")
    mean.max_tokens = 4
    found = Index.open(built.uri).queries.encode(["abcdefgh", "de"], None)
    np.testing.assert_allclose(found, mean.encode(["abcdefgh", "de"]), atol=1e-6)
    values["summary"]["encoding"] |= {"prompt": "ab "}
    manifest.write_text(json.dumps(values))
    asked = Index.open(built.uri).queries
    np.testing.assert_allclose(asked.encode(["c"]), mean.encode(["ab c"]), atol=1e-6)  # as the rows were
    np.testing.assert_allclose(asked.encode(["c"], prompt="d "), mean.encode(["d c"]), atol=1e-6)
    np.testing.assert_allclose(asked.encode(["c"], prompt=""), mean.encode(["c"]), atol=1e-6)
    tiny_models.plain_folder(folder, seed=1)
    with pytest.raises(UsageError, match="the encoder changed since the index was built"):
        Index.open(built.uri).queries.encode(["abc"], None)
