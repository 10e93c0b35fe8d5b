"""Factories: what an empty index tells of itself is so, and the chooser keeps to the budget."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.config import build_config
from ccp_ray.errors import UsageError
from ccp_ray.index_anatomy import anatomy, empty_index, set_parameters
from ccp_ray.index_config import IndexConfig
from ccp_ray.index_factory import Size, candidates, choose, train_rows

D = 16
MILLION = Size(rows=1_000_000, dimensions=384, shards=1, trainable=900_000)


def size(rows: int, dimensions: int = 384) -> Size:
    return Size(rows, dimensions, -(-rows // 1_000_000), rows - rows // 10)


def filled(factory: str, rows: int = 3000) -> faiss.Index:
    vectors = np.random.default_rng(0).normal(size=(rows, D)).astype(np.float32)
    built = empty_index(factory, D)
    built.train(vectors)
    built.add(vectors)
    return built


@pytest.mark.parametrize(
    "factory",
    ["Flat", "SQfp16", "SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "HNSW16", "HNSW8,SQfp16"],
)
def test_the_bytes_foretold_are_those_of_the_file(factory):
    written = len(faiss.serialize_index(filled(factory)))
    assert anatomy(factory, D).bytes(3000, shards=1) == pytest.approx(written, rel=0.02)


@pytest.mark.parametrize(
    ("factory", "merges", "trained", "least", "first"),
    [
        ("Flat", True, True, 0, ""),
        ("SQ8", True, False, 1, ""),
        ("IVF32,PQ4", True, False, 256, "nprobe=1"),
        ("PCA8,IVF300,Flat", True, False, 300, "nprobe=1"),
        ("HNSW16", False, True, 0, "efSearch=16"),
        ("IVF8,PQ4x4,RFlat", False, False, 16, "nprobe=1"),
    ],
)
def test_what_an_index_needs_and_can_is_read_from_it(factory, merges, trained, least, first):
    facts = anatomy(factory, D)
    assert (facts.merges, facts.trained, facts.least_train_rows, facts.ladder[0]) == (merges, trained, least, first)


def test_ladders_go_to_every_list_and_each_step_is_one_that_the_index_knows():
    assert anatomy("IVF12,Flat", D).ladder == ["nprobe=1", "nprobe=2", "nprobe=4", "nprobe=8", "nprobe=12"]
    for factory in ("IVF12,Flat", "OPQ4,IVF12,PQ4", "HNSW8", "PCA8,HNSW8"):
        built = empty_index(factory, D)
        for step in anatomy(factory, D).ladder:
            set_parameters(built, step)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("bogus", "could not parse index string bogus"),
        ("", "could not parse"),
        ("PQ7", "dimension of the vector .* multiple of the number of subquantizers"),
        ("IVF0,Flat", "at least one list"),
        ("IDMap,Flat", "leave out the IDMap"),
        ("HNSW16,PQ4", "L2 distance only"),
        ("NSG16", "cannot be built piece by piece"),
        ("LSH", "METRIC_L2"),
    ],
)
def test_a_factory_that_cannot_be_is_refused_by_name(factory, words):
    with pytest.raises(UsageError, match=f"^factory={factory}: .*{words}"):
        anatomy(factory, D)


@given(
    rows=st.integers(1, 300_000_000),
    dimensions=st.sampled_from([32, 384, 768]),
    memory=st.integers(1_000, 10**12),
    recall=st.sampled_from([None, 0.8, 0.95, 0.99, 1.0]),
    dtype=st.sampled_from(["float32", "float16"]),
    merge=st.booleans(),
)
def test_a_choice_fits_the_budget_and_more_memory_never_chooses_a_later_candidate(
    rows, dimensions, memory, recall, dtype, merge
):
    of = size(rows, dimensions)._replace(shards=1) if merge else size(rows, dimensions)
    rank = len(candidates(of, IndexConfig(dtype=dtype, recall=recall, merge=merge)))
    for budget in (memory, 2 * memory, 1000 * memory):
        config = IndexConfig(memory=f"{budget}B", recall=recall, dtype=dtype, merge=merge)
        order = candidates(of, config)
        try:
            choice = choose(of, config)
        except UsageError:
            assert all(anatomy(name, dimensions).bytes(rows, of.shards) > budget for name in order)
            continue
        assert choice.bytes <= budget
        assert order.index(choice.factory) <= rank
        rank = order.index(choice.factory)
        assert train_rows(choice, of, config) >= choice.anatomy.least_train_rows
        assert choice.exact or recall != 1


@pytest.mark.parametrize(
    ("settings", "factory"),
    [
        ({}, "Flat"),
        ({"dtype": "float16"}, "SQfp16"),
        ({"memory": "2GB"}, "Flat"),
        ({"memory": "1GB"}, "SQfp16"),
        ({"memory": "500MB"}, "IVF2048,SQ8"),
        ({"memory": "100MB"}, "IVF2048,PQ64"),
        ({"recall": 1.0, "memory": "1GB"}, "SQfp16"),
        ({"recall": 0.99}, "HNSW32"),
        ({"recall": 0.99, "memory": "1.2GB"}, "HNSW32,SQfp16"),
        ({"recall": 0.99, "merge": True}, "IVF2048,Flat"),
        ({"recall": 0.95}, "IVF2048,Flat"),
        ({"recall": 0.95, "dtype": "float16"}, "IVF2048,SQfp16"),
        ({"recall": 0.9, "memory": "500MB"}, "IVF2048,SQ8"),
    ],
)
def test_the_rule_for_a_million_rows_of_384_dimensions(settings, factory):
    assert choose(MILLION, build_config(IndexConfig, settings)).factory == factory


def test_the_reason_names_what_would_not_fit():
    reason = choose(MILLION, IndexConfig(memory="500MB")).reason
    assert "Flat would take 1.5 GB, SQfp16 would take 768" in reason
    assert "1,000,000 rows x 384 and at most 500MB; it takes" not in reason
    assert reason.startswith("the first that fits for 1,000,000 rows x 384 and at most 500MB")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "1MB"}, "memory=1MB: 1,000,000 rows of 384 .* do not fit; the smallest .*PQ12, takes"),
        ({"factory": "Flat", "memory": "1GB"}, "factory=Flat: takes 1.5 GB, more than memory=1GB"),
        ({"factory": "IVF1000000,Flat"}, "trains on 1,000,000 rows at least, there are 900,000"),
        ({"factory": "IVF64,Flat", "train_rows": 10}, "trains on 64 rows at least, there are 10"),
        ({"factory": "HNSW32", "merge": True}, "merge: FAISS cannot merge HNSW32"),
        ({"search_parameters": "nprobe=4"}, "an exact index has none"),
        ({"factory": "IVF64,Flat", "search_parameters": "efSearch=4"}, r"does not know it \(it has nprobe\)"),
        ({"factory": "Flat", "dtype": "float16"}, "a factory says itself"),
        ({"memory": "2 gigs"}, "expected a size such as 2GB"),
    ],
)
def test_what_cannot_be_met_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        choose(MILLION, build_config(IndexConfig, settings))


def test_an_index_that_grows_keeps_its_factory_while_that_fits():
    config = IndexConfig(memory="500MB")
    assert choose(size(150_000), IndexConfig(memory="100MB")).factory == "IVF1024,SQ8"
    assert choose(size(900_000), config).factory == "IVF2048,SQ8"
    assert choose(size(900_000), config, ["IVF1024,SQ8"]).factory == "IVF1024,SQ8"
    assert choose(size(900_000), config, ["IVF1024,Flat"]).factory == "IVF2048,SQ8"
    assert choose(size(900_000), IndexConfig(recall=1.0), ["IVF1024,Flat"]).factory == "Flat"
