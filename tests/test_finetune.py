"""Fine-tuning as a job: what it leaves, killed and run again, the best step, and what a bad request is told.

Ray Train runs `tuned`; the other trainings are forked, two of them as two workers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pair_files
import pytest
import tiny_models
from s3_servers import Bucket
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from without_ray import KilledError, forked_training

from ccp_ray.artifact import Artifact, find_artifact, verify_artifact
from ccp_ray.checkpoint_export import export_checkpoint
from ccp_ray.config import build_config
from ccp_ray.encoder import Encoder
from ccp_ray.errors import DataError, UsageError
from ccp_ray.finetune import best_step
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.finetune_job import finetune
from ccp_ray.finetune_worker import load_encoders
from ccp_ray.sentence_modules import Dense

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A configuration for a tiny encoder and 40 questions."""
    folder = tmp_path_factory.mktemp("request")
    source = str(tiny_models.plain_folder(folder / "start"))
    dev = pair_files.rows(12, seed=1)
    return {
        "encoder": {"source": source, "pooling": "mean"},
        "train": [{"file": pair_files.write_dpr(folder / "train.json", pair_files.rows(40))}],
        "dev_data": [{"file": pair_files.write_dpr(folder / "dev.json", dev)}],
        "question_tokens": 12,
        "passage_tokens": 20,
        "groups_per_step": 2,
        "questions_per_group": 4,
        "epochs": 4,
        "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "dev": {"every": 4},
        "log_every": 5,
        "resources": {"checkpoint_every": 3, "checkpoint_keep": 1, "workers": 1},
    }


def configured(request: dict[str, Any], **changes: Any) -> FinetuneConfig:
    return build_config(FinetuneConfig, request | changes)


@pytest.fixture(scope="module")
def tuned(ray_local: None, request_: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return finetune(str(tmp_path_factory.mktemp("tuned") / "encoder"), configured(request_))


def rows(encoder: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in encoder.store.read("metrics.jsonl").splitlines()]


def test_the_encoder_is_a_plain_folder_and_the_rows_say_what_happened(tuned: Artifact) -> None:
    texts = ["abc", "zyx wv"]
    np.testing.assert_allclose(
        Encoder.load(tuned.uri).encode(texts), SentenceTransformer(tuned.uri).encode(texts), atol=1e-5
    )
    assert Encoder.load(tuned.uri).max_tokens == 20
    assert verify_artifact(tuned) == []
    training = [row for row in rows(tuned) if "probe" not in row]
    measured = [row for row in rows(tuned) if "probe" in row]
    assert [row["step"] for row in training] == [5, 10, 15, 20]
    assert [row["step"] for row in measured] == [0, 4, 8, 12, 16, 20]
    assert training[-1]["loss"] < training[0]["loss"]
    assert set(measured[0]["probe"]) == set(pair_files.LANGUAGES)
    assert measured[-1]["epochs"] == pytest.approx(20 * 8 / 40)
    assert tuned.summary["questions"] == 40
    assert tuned.summary["languages"] == {"de": 14, "en": 13, "fr": 13}
    assert not any(record.path.startswith("_") for record in tuned.files)


def test_the_step_of_the_best_dev_loss_is_exported_and_its_checkpoint_stays(tuned: Artifact) -> None:
    losses = {row["step"]: row["dev"]["loss"] for row in rows(tuned) if "dev" in row and row["step"]}
    best = min(losses, key=lambda step: losses[step])
    assert tuned.summary["best_step"] == best
    assert tuned.summary["dev"]["loss"] == losses[best]
    kept = {info.key.rpartition("-")[2] for info in tuned.store.list("_ledger/checkpoints/")}
    assert kept == {f"{step:09d}.json" for step in (best, 20)}


def test_every_kept_step_is_exported(tuned: Artifact, request_: dict[str, Any], tmp_path: Path) -> None:
    """The best step's export is the run's own encoder; step 0 is what training started from."""
    best, start = tuned.summary["best_step"], request_["encoder"]["source"]
    for step, expected in ((best, tuned.uri), (0, start)):
        exported = export_checkpoint(tuned.uri, step, str(tmp_path / str(step)))
        assert verify_artifact(exported) == []
        left, right = load_file(f"{exported.uri}/model.safetensors"), load_file(f"{expected}/model.safetensors")
        assert left.keys() >= right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in right)
        assert Encoder.load(exported.uri).max_tokens == 20
    with pytest.raises(UsageError, match="keeps no checkpoint of step 7; there is"):
        export_checkpoint(tuned.uri, 7, str(tmp_path / "seventh"))


def test_another_choice_exports_another_step(
    tuned: Artifact, request_: dict[str, Any], ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a relative path: workers run in a folder of their own."""
    start = Path(request_["encoder"]["source"])
    monkeypatch.chdir(start.parent)
    changes = {"dev": {"every": 4, "best": "last"}, "encoder": {"source": start.name, "pooling": "mean"}}
    with forked_training():
        last = finetune(str(tmp_path / "last"), configured(request_, **changes))
    assert last.summary["best_step"] == 20
    left, right = (load_file(f"{one.uri}/model.safetensors") for one in (tuned, last))
    same = all(np.array_equal(left[name], right[name]) for name in left)
    assert same == (tuned.summary["best_step"] == 20)
    assert [row for row in rows(last) if "probe" not in row] == [row for row in rows(tuned) if "probe" not in row]


def test_the_best_step_has_the_lowest_loss_or_the_highest_mrr() -> None:
    dev = {0: (0.1, 0.9), 4: (3.0, 0.5), 8: (1.0, 0.2), 12: (1.0, 0.5), 16: (2.0, 0.4)}
    rows = [{"step": step, "dev": {"loss": loss, "mrr": mrr}} for step, (loss, mrr) in dev.items()]
    rows.insert(2, {"step": 5, "loss": 0.01})
    assert best_step(rows, "loss") == 8
    assert best_step(rows, "mrr") == 4
    assert best_step(rows, "last") is None
    assert best_step(rows[:1], "loss") is None  # the encoder that training starts from is no step of it


def test_two_workers_killed_and_run_again_on_s3_end_in_the_same_bits(
    tuned: Artifact,
    request_: dict[str, Any],
    tmp_path: Path,
    moto_bucket: Bucket,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The undisturbed run is on a local disk."""
    config = configured(request_, resources=request_["resources"] | {"workers": 2})
    output = f"{moto_bucket.uri}/killed"
    with pytest.raises(KilledError), forked_training(killed=True):
        finetune(output, config)
    assert find_artifact(output) is None
    with forked_training():
        resumed = finetune(output, config)
        assert "going on from the checkpoint of step" in capsys.readouterr().err
        whole = finetune(str(tmp_path / "whole"), config)
    assert resumed.fingerprint == whole.fingerprint
    assert verify_artifact(resumed) == []
    assert finetune(output, config).provenance == resumed.provenance  # already done
    losses = [[row["loss"] for row in rows(one) if "probe" not in row] for one in (resumed, tuned)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # of one worker: other sums, the same training


def test_two_encoders_by_cosine_are_two_folders(request_: dict[str, Any], ray_local: None, tmp_path: Path) -> None:
    changes = {"tied": False, "similarity": "cosine", "temperature": 0.1, "dev_data": [], "epochs": 1}
    changes |= {"question_prompt": "q", "passage_prompt": "p"}
    with forked_training():
        both = finetune(str(tmp_path / "both"), configured(request_, **changes))
    for side, longest in (("question", 12), ("passage", 20)):
        encoder = Encoder.load(f"{both.uri}/{side}")
        assert encoder.normalize
        assert (encoder.max_tokens, encoder.reader.prompt) == (longest, side[0])
    left, right = (load_file(f"{both.uri}/{side}/model.safetensors") for side in ("question", "passage"))
    assert any(not np.array_equal(left[name], right[name]) for name in left)
    assert "dev" not in both.summary
    last = export_checkpoint(both.uri, 5, str(tmp_path / "last"))
    for file in ("question/model.safetensors", "passage/model.safetensors", "question/modules.json"):
        assert last.read(file) == both.read(file)
    again = {"encoder": {"source": f"{both.uri}/question"}, "passage_encoder": {"source": f"{both.uri}/passage"}}
    for side, encoder in load_encoders(configured(request_, **(changes | again))).items():  # training goes on from them
        encoder.model.eval()
        expected = Encoder.load(f"{both.uri}/{side}").encode(["abc"])
        np.testing.assert_array_equal(encoder.encode(["abc"]), expected)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"groups_per_step": 11}, DataError, r"a step takes 44 questions .*, the training data has 40"),
        (
            {"hard_negatives": 3},
            DataError,
            r"40 of 40 training questions have fewer hard negatives than hard_negatives=3",
        ),
        ({"train": [{"file": "/nowhere.json"}]}, UsageError, r"/nowhere\.json: no such file"),
        ({"encoder": {"source": "/nowhere"}}, UsageError, "/nowhere: no such model folder"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_left(
    request_: dict[str, Any], tmp_path: Path, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    output = tmp_path / "nothing"
    with pytest.raises(kind, match=said):
        finetune(str(output), configured(request_, **changes))
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_an_encoder_that_training_would_change_on_the_way_is_refused_first(
    request_: dict[str, Any], tmp_path: Path
) -> None:
    encoder = tiny_models.encoder("mean")
    encoder.modules = encoder.modules._replace(steps=(Dense(16, 8, True, "Tanh", False),))
    (tmp_path / "dense").mkdir()
    encoder.save(tmp_path / "dense")
    with pytest.raises(UsageError, match=r"dense: training supports .* but modules\.json names Dense"):
        finetune(str(tmp_path / "out"), configured(request_, encoder={"source": str(tmp_path / "dense")}))
    assert not (tmp_path / "out").exists()


def test_an_empty_dev_set_and_rows_without_positives_are_told(request_: dict[str, Any], tmp_path: Path) -> None:
    empty = {"dev_data": [{"file": pair_files.write_dpr(tmp_path / "empty.json", [])}]}
    with pytest.raises(DataError, match="dev: no question that could be used"):
        finetune(str(tmp_path / "out"), configured(request_, **empty))
    found = pair_files.rows(40)
    for row in found[:15]:
        row["positive_ctxs"] = []
    bad = {"train": [{"file": pair_files.write_dpr(tmp_path / "bad.json", found)}]}
    with pytest.raises(DataError, match=r"15 of 40 rows cannot be used.*object 1, line 2: no positive passage"):
        finetune(str(tmp_path / "out"), configured(request_, **bad))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"passage_encoder": {"source": "x"}}, "one encoder reads both sides; set tied=false"),
        ({"groups_per_step": 1, "questions_per_group": 1, "hard_negatives": 0}, "leaves nothing to tell its passage"),
        ({"hard_negatives": 9}, "hard_negatives=9 is more than negative_pool=8"),
        ({"chunks": 9}, "chunks must not exceed a group's passages"),
        ({"dev_data": [], "dev": {"best": "mrr"}}, r"dev\.best=mrr: there are no dev questions"),
        ({"train": []}, "train: list should have at least 1 item"),
        ({"deepspeed": {"zero_stage": 0, "offload_optimizer": True}}, "ZeRO 0 keeps the whole optimiser"),
        ({"hard_negative": 1}, "did you mean 'hard_negatives'"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    request_: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        configured(request_, **changes)
