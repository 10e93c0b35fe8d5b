"""Approximate indexes: as plain FAISS in one process builds them, with the recall that NumPy counts; trained once,
continued after a kill, grown, merged."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_inputs import embeddings, source_rows
from without_ray import indexing_here

from ccp_ray import index_merge
from ccp_ray.artifact import Artifact, verify_artifact
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DamagedError, UsageError
from ccp_ray.index import IndexConfig, index, unit
from ccp_ray.index_sample import draw
from ccp_ray.ledger import Ledger

D = 12
SIZES = (300, 200, 250, 150)
CONFIG = IndexConfig(factory="IVF16,SQ8", shard_rows=500, recall=0.9, recall_queries=60, train_rows=700)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return embeddings(tmp_path_factory.mktemp("source") / "embeddings", SIZES, dimensions=D)


@pytest.fixture(scope="module")
def built(ray_local: None, source: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Read only."""
    return index(source.uri, str(tmp_path_factory.mktemp("built") / "index"), CONFIG)


def shard(artifact: Artifact, number: int) -> faiss.Index:
    return faiss.read_index(str(Path(artifact.uri, artifact.summary["shards"][number]["vectors"])))


def trained(artifact: Artifact) -> faiss.Index:
    return faiss.read_index(str(Path(artifact.uri, artifact.summary["quantiser"]["file"])))


def ledger(artifact: Artifact, stage: str) -> dict[str, int]:
    """When each piece of a stage was committed."""
    return {path.stem: path.stat().st_mtime_ns for path in Path(artifact.uri, "_ledger", stage).iterdir()}


def queries(source: Artifact, config: IndexConfig = CONFIG) -> np.ndarray:
    """Numbers of the rows held out, over all pieces."""
    pieces = Embeddings.open(source.uri).pieces
    drawn = draw(pieces, config.seed, config.train_rows, config.recall_queries)
    starts = np.cumsum([0, *(piece.rows for piece in pieces)])
    return np.concatenate([start + drawn.query_rows(piece) for start, piece in zip(starts, pieces, strict=False)])


def test_what_search_needs_is_told(built):
    summary = built.summary
    assert (summary["factory"], summary["exact"], summary["metric"]) == ("IVF16,SQ8", False, "cosine")
    assert [(entry["rows"], entry["pieces"]) for entry in summary["shards"]] == [(500, ["0", "1"]), (400, ["2", "3"])]
    assert summary["recall"]["chosen"] == summary["search_parameters"] in summary["recall"]["by_parameters"]
    assert summary["encoding"].keys() == {"pooling", "max_tokens", "prompt"}
    assert verify_artifact(built) == []


def test_shards_find_what_one_plain_faiss_index_finds(built, source):
    vectors = unit(source_rows(source)[0])
    plain = trained(built)
    plain.add(vectors)
    for probes in (1, 4):
        plain.nprobe = probes
        scores, expected = plain.search(vectors[:50], 10)
        found = []
        for number, start in ((0, 0), (1, 500)):
            part = shard(built, number)
            part.nprobe = probes
            part_scores, rows = part.search(vectors[:50], 10)
            found.append((part_scores, np.where(rows < 0, -1, rows + start)))
        both = np.concatenate([scores for scores, _ in found], axis=1)
        rows = np.concatenate([rows for _, rows in found], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(np.take_along_axis(rows, order, 1), expected)
        np.testing.assert_array_equal(np.take_along_axis(both, order, 1), scores)


def test_the_quantiser_is_trained_once_and_every_shard_starts_from_it(built):
    assert len(ledger(built, "quantiser")) == 1
    start = trained(built)
    for number in range(2):
        part = shard(built, number)
        np.testing.assert_array_equal(part.quantizer.reconstruct_n(0, 16), start.quantizer.reconstruct_n(0, 16))
    assert built.summary["quantiser"]["rows"] == 700


def test_the_recall_is_the_share_that_numpy_counts(built, source):
    vectors = unit(source_rows(source)[0])
    asked = queries(source)
    assert len(asked) == built.summary["recall"]["queries"] == 60
    scores = vectors[asked] @ vectors.T
    scores[np.arange(60), asked] = -np.inf
    exact = np.argsort(-scores, axis=1)[:, :10]
    plain = trained(built)
    plain.add(vectors)
    for name, measured in built.summary["recall"]["by_parameters"].items():
        plain.nprobe = int(name.removeprefix("nprobe="))
        _, found = plain.search(vectors[asked], 11)
        kept = [[row for row in rows if row != own][:10] for rows, own in zip(found, asked, strict=True)]
        counted = np.mean([len(set(rows) & set(best)) / 10 for rows, best in zip(kept, exact, strict=True)])
        assert measured == pytest.approx(counted, abs=1e-6), name


def test_the_cheapest_parameters_that_reach_the_target_are_chosen(built):
    recall = built.summary["recall"]
    by = list(recall["by_parameters"].items())
    assert [name for name, _ in by] == [f"nprobe={n}" for n in (1, 2, 4, 8, 16)]
    assert recall["chosen"] == next(name for name, share in by if share >= 0.9)
    assert "the target of 0.9 is reached" in built.summary["reason"]


def test_a_killed_build_continues_to_the_same_bytes_and_trains_nothing_again(built, source, tmp_path):
    broken = index(source.uri, str(tmp_path / "broken"), CONFIG)
    assert broken.fingerprint == built.fingerprint
    second = broken.summary["shards"][1]
    (measured,) = (name for name in ledger(broken, "recall") if name.startswith(second["name"]))
    entries = [f"_ledger/index/{second['name']}.json", f"_ledger/recall/{measured}.json"]
    for key in ["artifact.json", *entries, second["vectors"]]:
        broken.store.delete(key)
    before = {stage: ledger(broken, stage) for stage in ("quantiser", "sample", "index")}
    again = index(source.uri, str(tmp_path / "broken"), CONFIG)
    assert (again.fingerprint, again.summary) == (built.fingerprint, built.summary)
    for stage, times in before.items():
        assert times.items() <= ledger(again, stage).items()


def test_a_larger_corpus_builds_only_what_is_new(built, tmp_path):
    grown = embeddings(tmp_path / "embeddings", (*SIZES, 180), dimensions=D)
    larger = index(grown.uri, str(tmp_path / "index"), CONFIG, reuse=[built.uri])
    assert (larger.measured["shards_kept"], larger.measured["shards_built"]) == (2, 1)
    assert larger.summary["quantiser"] == built.summary["quantiser"]
    samples = Ledger(larger.store, "_ledger/sample").entries()
    assert sum(entry.rows for entry in samples.values()) == 0  # nothing to train on is read
    assert larger.summary["shards"][:2] == built.summary["shards"]
    assert larger.summary["shards"][2]["pieces"] == ["4"]
    sums = {record.path: record.sha256 for record in larger.files}
    assert {record.path: record.sha256 for record in built.files}.items() <= sums.items()
    assert verify_artifact(larger) == []
    again = index(grown.uri, str(tmp_path / "index"), CONFIG)
    assert again == larger


def test_a_shard_whose_pieces_are_not_all_there_is_built_anew(built, tmp_path):
    changed = embeddings(tmp_path / "embeddings", SIZES, dimensions=D, spoilt={3: np.ones((150, D), np.float32)})
    other = index(changed.uri, str(tmp_path / "index"), CONFIG, reuse=[built.uri])
    assert (other.measured["shards_kept"], other.measured["shards_built"]) == (1, 1)
    assert other.summary["shards"][0] == built.summary["shards"][0]
    assert other.summary["shards"][1]["name"] != built.summary["shards"][1]["name"]


def test_another_metric_or_factory_uses_nothing_again(built, source, tmp_path):
    config = CONFIG.model_copy(update={"metric": "inner_product"})
    other = index(source.uri, str(tmp_path / "index"), config, reuse=[built.uri])
    assert other.measured["shards_kept"] == 0
    assert other.summary["quantiser"]["key"] != built.summary["quantiser"]["key"]


def test_ivf_pq_is_the_one_that_plain_faiss_builds_from_the_same_quantiser(source, tmp_path):
    config = CONFIG.model_copy(update={"factory": "IVF16,PQ4x4"})
    with indexing_here():
        made = index(source.uri, str(tmp_path / "index"), config)
    vectors = unit(source_rows(source)[0])
    assert trained(made).pq.M == 4
    for number, rows in enumerate((vectors[:500], vectors[500:])):
        plain = trained(made)
        plain.add(rows)
        assert faiss.serialize_index(plain).tobytes() == faiss.serialize_index(shard(made, number)).tobytes()
    # Its codes are what product quantisation says: the nearest centroid of each part of what the list leaves over.
    plain = trained(made)
    lists = plain.quantizer.reconstruct_n(0, 16)
    centroids = faiss.vector_to_array(plain.pq.centroids).reshape(4, 16, D // 4)
    near = np.argmax(vectors @ lists.T, axis=1)
    left = (vectors - lists[near]).reshape(-1, 4, D // 4)
    codes = np.argmin(((left[:, :, None] - centroids) ** 2).sum(-1), axis=2)
    expected = lists[near] + centroids[np.arange(4), codes].reshape(-1, D)
    first = shard(made, 0)
    first.make_direct_map()
    np.testing.assert_allclose(first.reconstruct_n(0, 500), expected[:500], atol=1e-6)
    assert 0 < made.summary["recall"]["by_parameters"]["nprobe=16"] < 1


def test_a_merge_that_another_run_overtakes_ends_with_that_runs_index(source, tmp_path, monkeypatch, capsys):
    """The other run merges, and deletes the shards, when this one's merge has begun."""
    config, place = CONFIG.model_copy(update={"merge": True}), str(tmp_path / "index")
    others = []

    def overtaken(target, stage, plan, work, **_):
        monkeypatch.setattr(index_merge, "run_pieces", here)
        others.append(index(source.uri, place, config))
        return {name: work(name, job) for name, job in plan.items()}

    with indexing_here():
        here = index_merge.run_pieces
        monkeypatch.setattr(index_merge, "run_pieces", overtaken)
        made = index(source.uri, place, config)
    assert [made] == others
    assert "another run of this output has finished it meanwhile" in capsys.readouterr().err
    assert verify_artifact(made) == []
    assert index(source.uri, place, config) == made


def test_a_merge_that_lacks_a_shard_and_is_not_finished_elsewhere_says_so(source, tmp_path, monkeypatch):
    config, place = CONFIG.model_copy(update={"merge": True}), str(tmp_path / "index")

    def without_a_shard(target, stage, plan, work, **_):
        next(Path(place, "shards").glob("*.faiss")).unlink()
        return {name: work(name, job) for name, job in plan.items()}

    with indexing_here():
        monkeypatch.setattr(index_merge, "run_pieces", without_a_shard)
        with pytest.raises(DamagedError, match=r"\.faiss: altered or damaged .*missing"):
            index(source.uri, place, config)


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "SQfp16"])
def test_a_merged_index_is_the_one_that_a_single_shard_would_be(ray_local, source, tmp_path, factory):
    config = CONFIG.model_copy(update={"factory": factory})
    single = index(source.uri, str(tmp_path / "single"), config.model_copy(update={"shard_rows": 10_000}))
    merged = index(source.uri, str(tmp_path / "merged"), config.model_copy(update={"merge": True}))
    (shard,) = single.summary["shards"]
    assert merged.summary["shards"] == single.summary["shards"]  # files are named by their content
    sums = [{r.path: r.sha256 for r in artifact.files}[shard["vectors"]] for artifact in (single, merged)]
    assert sums[0] == sums[1]
    assert len(list(Path(merged.uri, "shards").iterdir())) == 2  # what was merged is gone
    assert verify_artifact(merged) == []
    table = pq.read_table(pa.BufferReader(merged.store.read(shard["table"])))
    assert table["id"].to_pylist() == source_rows(source)[1]


def test_a_merged_index_grows_too(ray_local, source, tmp_path):
    config = CONFIG.model_copy(update={"merge": True})
    merged = index(source.uri, str(tmp_path / "merged"), config)
    grown = embeddings(tmp_path / "embeddings", (*SIZES, 180), dimensions=D)
    larger = index(grown.uri, str(tmp_path / "larger"), config, reuse=[merged.uri])
    assert (larger.measured["shards_kept"], larger.measured["shards_built"]) == (1, 1)
    assert [shard["rows"] for shard in larger.summary["shards"]] == [1080]
    vectors, _, _ = source_rows(grown)
    whole = trained(larger)
    whole.add(unit(vectors))
    assert faiss.serialize_index(whole).tobytes() == faiss.serialize_index(shard(larger, 0)).tobytes()


def test_a_graph_is_measured_too_and_own_parameters_are_kept_with_their_recall(ray_local, source, tmp_path):
    config = IndexConfig(factory="HNSW8", shard_rows=500, recall_queries=40, search_parameters="efSearch=12")
    made = index(source.uri, str(tmp_path / "index"), config)
    by = made.summary["recall"]["by_parameters"]
    assert list(by) == [*(f"efSearch={n}" for n in (16, 32, 64, 128, 256, 512)), "efSearch=12"]
    assert made.summary["search_parameters"] == "efSearch=12"
    assert by["efSearch=12"] <= by["efSearch=512"]
    assert by["efSearch=512"] > 0.95
    assert made.summary["quantiser"] is None


def test_a_target_that_is_not_reached_is_said_plainly(ray_local, source, tmp_path):
    config = IndexConfig(factory="PQ2x4", recall_queries=40)
    made = index(source.uri, str(tmp_path / "index"), config)
    recall = made.summary["recall"]
    assert list(recall["by_parameters"]) == ["default"]
    assert recall["by_parameters"]["default"] < 0.9
    assert made.summary["search_parameters"] == ""
    assert "the target of 0.95 was not reached" in made.summary["reason"]


@pytest.mark.parametrize(
    ("factory", "words"), [("Flat", "only an IVF is built faster"), ("IVF8,Flat", "this FAISS has no GPU support")]
)
def test_a_gpu_that_cannot_be_used_is_refused(source, tmp_path, factory, words):
    if hasattr(faiss, "StandardGpuResources") and factory != "Flat":
        pytest.skip("this FAISS has GPU support")
    config = IndexConfig.model_validate({"factory": factory, "resources": {"gpu": True}})
    with pytest.raises(UsageError, match=words):
        index(source.uri, str(tmp_path / "index"), config)
    assert not (tmp_path / "index").exists()


def test_a_merge_that_no_node_can_hold_is_refused(ray_local, source, tmp_path, monkeypatch):
    monkeypatch.setattr("ccp_ray.index_merge.largest_node", lambda _: 1000.0)
    with pytest.raises(UsageError, match="the largest node offers 1 kB; set merge=false"):
        index(source.uri, str(tmp_path / "index"), IndexConfig(merge=True))
    assert not (tmp_path / "index").exists()


def test_an_altered_quantiser_is_not_built_on(source, built, tmp_path):
    made = index(source.uri, str(tmp_path / "index"), CONFIG)
    path = Path(made.uri, made.summary["quantiser"]["file"])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    made.store.delete("artifact.json")
    made.store.delete(f"_ledger/index/{made.summary['shards'][0]['name']}.json")
    with pytest.raises(Exception, match=f"{path.name}: altered or damaged"):
        index(source.uri, str(tmp_path / "index"), CONFIG)
    assert json.loads(Path(made.uri, "_job.json").read_text())["kind"] == "index"


def test_a_single_row_can_be_indexed_but_not_measured(ray_local, tmp_path):
    source = embeddings(tmp_path / "embeddings", (1,), dimensions=D)
    made = index(source.uri, str(tmp_path / "index"), IndexConfig(factory="HNSW8"))
    assert (made.summary["recall"], made.summary["search_parameters"]) == (None, "efSearch=512")
    assert "recall was not measured" in made.summary["reason"]
