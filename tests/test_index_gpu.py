"""Indexes and GPUs: what FAISS cannot put on one is built on CPUs and told, unless a GPU was asked for.

No GPU is at hand: FAISS' functions for them are put in, and tasks run in this process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import pytest
from index_inputs import embeddings
from without_ray import indexing_here

from ccp_ray.artifact import Artifact
from ccp_ray.errors import CcpError, UsageError
from ccp_ray.index import IndexConfig, index

REFUSAL = "Error in virtual clone_Index at gpu/GpuCloner.cpp:341: This index type is not implemented on GPU."


class Gpu:
    """FAISS with a GPU: what went there, and came back."""

    def __init__(self) -> None:
        self.there = self.back = 0
        self.refuses = False

    def to_gpu(self, _: Any, number: int, built: Any) -> Any:
        assert number == 0
        if self.refuses:
            raise RuntimeError(REFUSAL)
        self.there += 1
        return built

    def to_cpu(self, built: Any) -> Any:
        self.back += 1
        return built


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    made = Gpu()
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", made.to_gpu, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", made.to_cpu, raising=False)
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Artifact:
    return embeddings(tmp_path_factory.mktemp("source") / "embeddings", (120, 100))


def config(gpu: bool | None) -> IndexConfig:
    return IndexConfig.model_validate(
        {"factory": "IVF4,SQ8", "shard_rows": 120, "recall_queries": 10, "resources": {"gpu": gpu}}
    )


def on_cpus(source: Artifact, folder: Path) -> Artifact:
    with indexing_here(gpus=1) as reserved:
        made = index(source.uri, str(folder / "on-cpus"), config(False))
    assert set(reserved.values()) == {0}
    return made


@pytest.mark.parametrize("asked", [None, True])
def test_an_ivf_goes_to_the_gpu_and_comes_back(gpu, source, tmp_path, capsys, asked):
    with indexing_here(gpus=1) as reserved:
        built = index(source.uri, str(tmp_path / "index"), config(asked))
    assert (gpu.there, gpu.back) == (3, 3)  # the quantiser and two shards
    assert (reserved["quantiser"], reserved["index"], reserved["recall"]) == (1, 1, 0)
    assert "GPU" not in capsys.readouterr().err
    assert built.fingerprint == on_cpus(source, tmp_path).fingerprint


def test_what_faiss_cannot_put_there_is_built_on_cpus_and_told_once(gpu, source, tmp_path, capsys):
    gpu.refuses = True
    with indexing_here(gpus=1) as reserved:
        built = index(source.uri, str(tmp_path / "index"), config(None))
    told = [line for line in capsys.readouterr().err.splitlines() if "GPU" in line]
    assert told == [
        "index: the CPUs build it, not a GPU: factory=IVF4,SQ8: FAISS refuses it (This index type is not implemented "
        "on GPU.) on a GPU; choose another factory, or set resources.gpu=false"
    ]
    assert (reserved["quantiser"], reserved["index"]) == (1, 0)  # no shard waits for a GPU that it cannot use
    assert gpu.back == 0
    assert built.fingerprint == on_cpus(source, tmp_path).fingerprint


def test_shards_of_a_copied_quantiser_fall_back_too(gpu, source, tmp_path, capsys):
    earlier = on_cpus(source, tmp_path)
    gpu.refuses = True
    grown = embeddings(tmp_path / "grown", (120, 100, 80))
    with indexing_here(gpus=1):
        built = index(grown.uri, str(tmp_path / "index"), config(None), reuse=[earlier.uri])
    assert built.summary["quantiser"] == earlier.summary["quantiser"]
    assert (built.measured["shards_kept"], built.measured["shards_built"]) == (2, 1)
    assert capsys.readouterr().err.count("the CPUs build it, not a GPU") == 1


def test_a_gpu_that_was_asked_for_is_not_replaced(gpu, source, tmp_path):
    gpu.refuses = True
    with (
        indexing_here(gpus=1),
        pytest.raises(UsageError, match=r"factory=IVF4,SQ8: .*on a GPU; choose another factory"),
    ):
        index(source.uri, str(tmp_path / "index"), config(True))
    assert not (tmp_path / "index").exists()


def test_a_node_whose_faiss_sees_no_gpu(gpu, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with indexing_here(gpus=1), pytest.raises(CcpError, match="FAISS sees no GPU on this node"):
        index(source.uri, str(tmp_path / "asked"), config(True))
    with indexing_here(gpus=1):
        index(source.uri, str(tmp_path / "index"), config(None))
    assert "the CPUs build it, not a GPU: FAISS sees no GPU on this node" in capsys.readouterr().err


def test_a_cluster_without_a_gpu(gpu, source, tmp_path):
    with indexing_here(gpus=0), pytest.raises(UsageError, match="the Ray cluster has no GPU"):
        index(source.uri, str(tmp_path / "index"), config(True))
    with indexing_here(gpus=0) as reserved:
        index(source.uri, str(tmp_path / "index"), config(None))
    assert (set(reserved.values()), gpu.there) == ({0}, 0)
