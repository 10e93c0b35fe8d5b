"""The plan's memory against what a real engine holds, and a layer's saved tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import tiny_models
import torch
import training_ranks
from training_ranks import Outcome, Scenario

from ccp_ray.config import build_config
from ccp_ray.encoder import new_model
from ccp_ray.errors import UsageError
from ccp_ray.head import ProjectionHead
from ccp_ray.model_source import model_settings
from ccp_ray.pretrain_config import HeadStart, PretrainConfig
from jobs.memory import EncoderShape, activation_bytes, parameter_bytes, trained_parameters, training_memory
from jobs.plan import architecture_shape, source_shape

pytestmark = pytest.mark.timeout(900)

HIDDEN = 320  # so that matrices are large enough for ZeRO 3 to cut them up
CASES = [(stage, precision) for stage in range(4) for precision in ("fp32", "bf16")]
XLMR_BASE = EncoderShape(12, 768, 3072, 12, 250_002, 514)


def scenario(stage: int, precision: str) -> Scenario:
    deepspeed = {"zero_stage": stage, "precision": precision}
    return Scenario({"deepspeed": deepspeed, "bank": {"size": 0}}, 2, gradients=False, hidden=HIDDEN)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    scenarios = {f"{stage} {precision}": scenario(stage, precision) for stage, precision in CASES}
    return training_ranks.train(2, scenarios, tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_model_and_optimiser_take_what_the_plan_says(two_workers, stage, precision):
    outcome = two_workers[f"{stage} {precision}"][0]
    parameters = sum(weight.numel() for weight in outcome.exported.values())
    planned = sum(parameter_bytes(training_ranks.config(**scenario(stage, precision).changes), workers=2))
    made_in_the_step = 4 if (stage, precision) == (0, "bf16") else 0  # gradients in fp32, after they were counted
    assert outcome.live_bytes / parameters == pytest.approx(planned - made_in_the_step, rel=0.06)


@pytest.mark.parametrize("start", get_args(HeadStart))
def test_the_head_is_counted_as_it_starts(start):
    config = build_config(PretrainConfig, {"projection": 768, "head_start": start, "mlm": {"weight": 0.0}})
    real = sum(parameter.numel() for parameter in ProjectionHead(768, 768, start=start).parameters())
    assert trained_parameters(config, XLMR_BASE) - XLMR_BASE.parameters == real


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_saves(precision):
    shape = tiny_models.architecture(layers=6, hidden=64, intermediate=256, heads=4, positions=40, dropout=0.1)
    config = training_ranks.config(
        pairs_per_group=8,
        max_tokens=32,
        chunks=1,
        bank={"size": 0},
        mlm={"weight": 0},
        deepspeed={"precision": precision},
    )
    encoder = new_model(shape, tiny_models.tokenizer(), 0).base_model.train()
    encoder.to(torch.float32 if precision == "fp32" else torch.bfloat16)
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    saved, alive = {}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ids = torch.randint(4, 30, (16, 32))
        mask = torch.ones_like(ids)
        mask[0, 20:] = 0
        encoder(input_ids=ids, attention_mask=mask)
    planned = activation_bytes(config, architecture_shape(shape, 31), gpu=False)
    assert planned == pytest.approx(sum(saved.values()), rel=0.12)


def test_what_takes_less_memory_is_planned_with_less():
    def memory(gpu=True, workers=8, **changes):
        bank = {"size": 4096, "placement": "sharded"} | changes.pop("bank", {})
        return training_memory(training_ranks.config(bank=bank, **changes), XLMR_BASE, workers, 108, gpu)

    plain = memory()
    offloaded = memory(deepspeed={"offload_optimizer": True})
    assert offloaded.optimizer == 0
    assert offloaded.offloaded == plain.optimizer > 0
    assert offloaded.total == plain.total - plain.optimizer
    assert memory(workers=16).banks == pytest.approx(plain.banks / 2)
    recomputed = memory(deepspeed={"activation_checkpointing": True}, pairs_per_group=256, chunks=8)
    assert recomputed.activations < memory(pairs_per_group=256, chunks=8).activations / 2
    assert memory(gpu=False).activations > plain.activations
    assert memory(deepspeed={"precision": "bf16"}).activations < plain.activations
    assert memory(bank={"momentum": 0.99}).model > plain.model


def test_a_shape_is_read_from_config_json_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny_models.plain_folder(tmp_path / "model")
    expected = EncoderShape(layers=2, hidden=16, intermediate=32, heads=2, vocabulary=31, positions=24)
    assert source_shape(str(folder)) == expected
    fetched = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda name, file: fetched.append((name, file)) or str(folder / file),
    )
    assert source_shape("some/model") == expected
    assert fetched == [("some/model", "config.json")]
    (folder / "config.json").write_text(json.dumps({"hidden_size": 16}))
    with pytest.raises(UsageError, match=r"config\.json lacks one of num_hidden_layers"):
        source_shape(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json is damaged"):
        model_settings(str(folder))


def test_of_a_model_in_a_store_only_config_json_is_read(s3_bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny_models.plain_folder(tmp_path / "model")
    monkeypatch.setenv("CCP_RAY_CACHE", str(tmp_path / "cache"))
    from ccp_ray.storage import open_store

    uri = f"{s3_bucket.uri}/model"
    open_store(uri).upload(folder / "config.json", "config.json")  # nothing else is there to be read
    assert source_shape(uri).hidden == 16
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        source_shape(f"{s3_bucket.uri}/nowhere")
