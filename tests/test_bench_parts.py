"""Every part of the bench runs end to end, tiny. Nothing is said of speed: these are figures of nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers

from ccp_ray import hardware
from ccp_ray.errors import StoreError, UsageError
from ccp_ray.storage import LocalStore
from jobs.benches import store as bench_store
from jobs.benches.embed import embed_bench
from jobs.benches.encode import encode_bench, lowest_cosine
from jobs.benches.evaluation import evaluation_bench
from jobs.benches.figures import BenchOptions
from jobs.benches.gpu import gpu_bench, work
from jobs.benches.index import index_bench, ivf_pq
from jobs.benches.restart import restart_bench
from jobs.benches.scoring import scoring_bench
from jobs.benches.search import SHARDS, search_bench
from jobs.benches.status import status_bench
from jobs.benches.store import store_bench
from jobs.benches.submission import submission_bench
from jobs.benches.workers import gathered, shares
from jobs.usage import largest_worker_bytes

ROOT = Path(__file__).resolve().parent.parent
SMALL_XLMR = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tiny_models.encoder("mean").save(folder)
    return str(folder)


def named(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["what"]: figure for figure in part["figures"]}


def test_the_command_measures_the_job_and_keeps_it(encoder: str, tmp_path: Path) -> None:
    """In a process of its own: the job's S3 server must be there before Ray."""
    command = [sys.executable, "-m", "jobs.bench", "embed", "--section", "job", "--encoder", encoder, "--texts", "40"]
    command += ["--rounds", "1", "--results", str(tmp_path / "kept"), "--json"]
    with tempfile.TemporaryDirectory(prefix="b-") as scratch:  # short: Ray's sockets lie below it
        environment = {**os.environ, "TMPDIR": scratch, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        left = [path.name for path in Path(scratch).iterdir() if path.name.startswith("ccp-ray")]
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert left == []
    shown = json.loads(ended.stdout.splitlines()[-1])
    kept = json.loads(Path(shown["file"]).read_text())
    assert kept["embed"] == shown["embed"]
    job = kept["embed"]["job"]
    assert {"bare loop", "job, local", "job, S3"} == set(job["seconds"][0])
    seconds = job["seconds"][0]
    assert named(job)["complete job / bare encoder loop"]["value"] == seconds["bare loop"] / seconds["job, local"]
    assert named(job)["job on S3 / job on local disk"]["value"] == seconds["job, local"] / seconds["job, S3"]
    assert 0 < named(job)["padding efficiency"]["value"] <= 1


def test_the_encoder_loop_gives_the_vectors_of_sentence_transformers(
    ray_local: None, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hardware, "native_bf16", lambda where=None: False
    )  # half the processes, and the same on every machine
    texts = [word * (1 + number % 5) for number, word in enumerate(["abc", "de fg", "hijk", "l m n"] * 5)]
    part = encode_bench(encoder, texts, 1, workers=1)
    figures = named(part)
    assert not any("bf16" in figure for figure in figures)
    assert "bf16 is not native on this hardware: not measured" in part["notes"]
    assert figures["lowest cosine, fp32"]["value"] > 0.99999
    assert figures["ours / its best batch size, fp32"]["asked"] == "at least 1.3"
    assert set(part["batch_seconds"]["fp32"]) == {"8", "16", "32", "64", "128", "256"}
    best = min(part["batch_seconds"]["fp32"], key=part["batch_seconds"]["fp32"].__getitem__)
    assert f"best batch of sentence-transformers, fp32: {best}" in part["notes"]
    seconds = part["seconds"][0]
    ratio = seconds["theirs, fp32"] / seconds["ours, fp32"]
    assert figures["ours / its best batch size, fp32"]["value"] == ratio


def test_the_lowest_cosine_finds_the_one_vector_that_differs() -> None:
    same_ND = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    other_ND = 3 * same_ND
    other_ND[3] = -other_ND[3]
    assert lowest_cosine(same_ND, 3 * same_ND) == pytest.approx(1)
    assert lowest_cosine(same_ND, other_ND) == pytest.approx(-1)


def test_texts_that_are_dealt_out_come_back_in_order() -> None:
    texts = [str(number) for number in range(7)]
    pieces = shares(texts, 3)
    assert pieces == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    vectors = [np.array([[float(text)] for text in piece], dtype=np.float32) for piece in pieces]
    assert gathered(vectors, 7)[:, 0].tolist() == list(range(7))


def test_index_and_search_are_compared_with_faiss(ray_local: None) -> None:
    options = BenchOptions(encoder="", rounds=1, rows=400, dimensions=16, factories=["Flat"])
    built = index_bench(options)
    assert set(built["seconds"]["Flat"][0]) >= {"index job", "plain FAISS, same work", "plain FAISS, bare"}
    assert named(built)["Flat: index job / plain FAISS, same work"]["asked"] == "at most 1.1"
    found = named(search_bench(options))  # raises where rows differ from FAISS'
    assert sum("shard" in name for name in found) == 2 * len(SHARDS)
    assert ivf_pq(100_000, 384) == "IVF1265,PQ48"


def test_a_worker_of_ray_is_seen(ray_local: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Holder:
        def hold(self) -> int:
            self.held = np.ones(40_000_000, dtype=np.uint8)
            return len(self.held)

    holder = Holder.remote()
    assert ray.get(holder.hold.remote()) == 40_000_000
    assert largest_worker_bytes() > 40_000_000
    ray.kill(holder)


def test_a_restart_knows_what_is_left_on_disk_and_on_s3() -> None:
    part = restart_bench(20, 1)
    assert [figure["asked"] for figure in part["figures"]] == ["at most 5", "at most 5"]
    assert all(figure["value"] > 0 for figure in part["figures"])


def test_status_of_half_done_and_of_finished_work_on_disk_and_on_s3() -> None:
    part = status_bench(20, 1)
    assert [figure["asked"] for figure in part["figures"]] == ["at most 3"] * 4
    assert all(figure["value"] > 0 for figure in part["figures"])


def test_the_store_is_measured_on_disk_and_on_both_servers() -> None:
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    part = store_bench(BenchOptions(encoder="", rounds=1, objects=8))
    kinds = {figure["what"].partition(":")[0] for figure in part["figures"]}
    assert kinds == {"local", "rclone", "moto"}
    assert {name: value for name, value in os.environ.items() if name.startswith("AWS_")} == before
    write = part["seconds"]["local"][0]["write"]
    assert named(part)["local: write, 8 MiB objects"]["value"] == pytest.approx(2 * bench_store.LARGE / 1e6 / write)


def test_a_store_that_answers_wrong_has_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "write_if_absent", lambda self, key, data: True)
    with pytest.raises(StoreError, match="its speed means nothing"):
        bench_store._round(LocalStore(tmp_path), 2, 1)


def test_a_section_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="known are encode, job"):
        embed_bench(BenchOptions(encoder="", sections=["decode"]), print)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no GPU"):
            embed_bench(BenchOptions(encoder="", sections=["gpu"]), print)


def test_the_gpu_section_counts_real_tokens_and_their_work(encoder: str) -> None:
    part = gpu_bench(encoder, ["abc", "de"], 1, SMALL_XLMR, 32)
    fastest = min(part["seconds"].values())
    assert named(part)["XLM-R base, real tokens"]["value"] == pytest.approx((5 + 4) / fastest)
    config = transformers.XLMRobertaConfig(**SMALL_XLMR)
    model = transformers.XLMRobertaModel(config, add_pooling_layer=False)
    weights = sum(each.numel() for name, each in model.encoder.named_parameters() if each.ndim == 2)
    assert work(config, [5, 4]) == 2 * weights * 9 + 4 * 2 * 16 * (25 + 16)


def test_scoring_is_timed_at_the_sizes_it_is_told(ray_local: None) -> None:
    part = scoring_bench(BenchOptions(encoder="", rounds=1), xor_questions=6, run_questions=5)
    assert set(named(part)) == {"XOR-Retrieve: 6 questions x 100 passages", "Mr.TyDi: a run of 5 questions x 100"}
    assert part["passages"] == 12


def test_an_evaluation_is_timed_against_encoding_its_sentences(ray_local: None, encoder: str, tmp_path: Path) -> None:
    words = ["".join(row) for row in np.random.default_rng(0).choice(list(tiny_models.LETTERS), (120, 8))]
    for side in ("deu", "eng"):
        (tmp_path / f"tatoeba.deu-eng.{side}").write_text("".join(f"{side[0]}{word}\n" for word in words))
    options = BenchOptions(encoder=encoder, data=str(tmp_path), rounds=1)
    part = evaluation_bench(options, SMALL_XLMR | {"vocab_size": 512})
    assert part["sentences"] == 240
    for section, name in (("encoder", "encoder"), ("xlmr_base", "XLM-R base")):
        (seconds,) = part["seconds"][section]
        ratio = named(part)[f"{name}: evaluation / encoding alone"]
        assert ratio["value"] == seconds["evaluation"] / seconds["encoding alone"] > 1
    with pytest.raises(UsageError, match=r"no files \*-eng.eng"):
        evaluation_bench(options.model_copy(update={"data": str(tmp_path / "none")}))
    with pytest.raises(UsageError, match="known are encoder, xlmr_base"):
        evaluation_bench(options.model_copy(update={"sections": ["decode"]}))


def test_a_submission_is_timed_until_the_jobs_first_line() -> None:
    part = submission_bench(BenchOptions(encoder="", rounds=1))
    (seconds,) = part["seconds"]
    assert 0 < seconds["submitted"] < seconds["first line of its log"]
    assert named(part)["from the command to the first line of its log"]["asked"] == "at most 15"
