"""One shard: the bits of a score, ties that reach beyond what FAISS proposes, and rows that stay on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_factory import D, build, queries, rows

from ccp_ray import shard as module
from ccp_ray.model_source import cache_folder
from ccp_ray.shard import Shard


def opened(folder, vectors, table, factory="Flat", **summary) -> Shard:
    return Shard.open(build(folder, vectors, table, 1, factory, **summary), 0)


@pytest.fixture(scope="module", params=["Flat", "SQfp16"])
def shard(request, tmp_path_factory) -> Shard:
    return opened(tmp_path_factory.mktemp("index"), *rows(300), request.param)


@given(
    numbers=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 299)), min_size=1, max_size=60),
    block=st.integers(1, 7),
)
def test_the_bits_of_a_score_depend_on_its_row_and_query_alone(shard, numbers, block):
    asked = queries(10)
    query, row = (np.array(column) for column in zip(*numbers, strict=True))
    stored = np.stack([shard.index.reconstruct(int(n)) for n in row]).astype(np.float64)
    alone = [float((vector * asked[q].astype(np.float64)).sum()) for vector, q in zip(stored, query, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SCORED", block * D)
        assert shard._scores(asked, query, row).tolist() == alone
    assert shard._scores(asked, query, row).tolist() == alone


@pytest.mark.parametrize("width", [1, 7, 8, 129, 384, 1024])
def test_sums_of_any_width_are_those_of_one_row(tmp_path, width):
    rng = np.random.default_rng(width)
    vectors, asked = (rng.normal(size=(n, width)).astype(np.float32) for n in (50, 3))
    table = [{"id": str(i), "lang": "en", "text": ""} for i in range(50)]
    shard = opened(tmp_path, vectors, table, metric="inner_product")
    query, row = np.repeat(np.arange(3), 50), np.tile(np.arange(50), 3)
    alone = [float((vectors[r].astype(np.float64) * asked[q]).sum()) for q, r in zip(query, row, strict=True)]
    assert shard._scores(asked, query, row).tolist() == alone


def test_only_queries_whose_ties_reach_beyond_are_asked_again(tmp_path, monkeypatch):
    shard = opened(tmp_path, *rows(400, copies=100))
    copied = shard.index.reconstruct_batch([0])
    others = queries(5)
    others[(others @ copied[0]) > 0] *= -1  # away from the copies
    asked = np.concatenate([others, copied])
    calls: list[tuple[int, int]] = []
    search = shard._search
    monkeypatch.setattr(shard, "_search", lambda q, count, s: calls.append((len(q), count)) or search(q, count, s))
    found = shard.candidates(asked, 10)
    assert calls == [(6, 16), (1, 64), (1, 256)]
    assert np.bincount(found.query_n).tolist() == [10] * 6  # of 101 ties the first ten by id
    calls.clear()
    monkeypatch.setattr(module, "_FETCHED", 32)
    again = shard.candidates(asked, 10)
    assert max(queries * count for queries, count in calls) <= 256  # one query at once is the least
    assert (
        shard.ranked(again).sort_by("row").sort_by("query").equals(shard.ranked(found).sort_by("row").sort_by("query"))
    )


def test_rows_are_mapped_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    _, table = rows(40)
    shard = opened(tmp_path / "index", *rows(40))
    assert shard.rows(np.array([7, 3, 7])).to_pylist() == [table[7], table[3], table[7]]
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]
