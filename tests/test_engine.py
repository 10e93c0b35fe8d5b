"""Learning rates, parameter groups and what DeepSpeed is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray import engine
from ccp_ray.encoder import new_model
from ccp_ray.engine import learning_rates, parameter_groups, set_learning_rates
from ccp_ray.engine_settings import deepspeed_settings
from ccp_ray.objective import CcpModel
from ccp_ray.pretrain_config import DeepSpeedConfig, OptimizerConfig, PretrainConfig


def rates(steps=100, **changes) -> list[dict[str, float]]:
    config = OptimizerConfig(**({"lr": 1.0, "warmup_steps": 10} | changes))
    return [learning_rates(config, steps, step) for step in range(steps)]


def test_the_rate_warms_up_and_decays_in_straight_lines():
    encoder = [rate["encoder"] for rate in rates()]
    assert encoder[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert encoder[10:] == pytest.approx([(100 - step) / 90 for step in range(10, 100)])
    assert encoder == [rate["head"] for rate in rates()]


def test_the_schedule_is_that_of_transformers():
    """Shifted by one step: the first step learns, so the last one still does."""
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 10, 100)
    expected = []
    for _ in range(101):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    encoder = [rate["encoder"] for rate in rates()]
    assert encoder[:10] == pytest.approx(expected[1:11])
    assert encoder[10:] == pytest.approx(expected[10:100])


def test_head_and_encoder_have_their_own_rates():
    for step, rate in enumerate(rates(head_lr=5.0, head_only_steps=30)):
        assert rate["head"] == pytest.approx(5 * rates()[step]["head"])
        warmth = 0 if step < 30 else min(1.0, (step - 29) / 10)  # the encoder warms up when its turn comes
        assert rate["encoder"] == pytest.approx(warmth * min(1.0, (100 - step) / 90))


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert rates(warmup_steps=0)[0]["encoder"] == 1.0


@given(st.integers(1, 500), st.integers(0, 600), st.integers(0, 50))
def test_every_step_learns_and_none_above_the_peak(steps, warmup, head_only):
    for step, rate in enumerate(rates(steps=steps, warmup_steps=warmup, head_only_steps=head_only)):
        assert 0 < rate["head"] <= 1
        assert rate["encoder"] <= rate["head"]
        assert (rate["encoder"] == 0) == (step < head_only)


def model(with_mlm=True) -> CcpModel:
    made = new_model(tiny_models.architecture(), tiny_models.tokenizer(), 0)
    return CcpModel(made if with_mlm else made.base_model, "cls", 8, with_mlm)


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    made = model()
    groups = parameter_groups(made, 0.01)
    assert {(group["part"], group["weight_decay"]) for group in groups} == {
        ("encoder", 0.01), ("encoder", 0.0), ("head", 0.01), ("head", 0.0)
    }  # fmt: skip
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    seen = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(n for n, p in made.named_parameters() if p.requires_grad)
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert (group["part"] == "head") == name.startswith("head.")
            small = name.endswith(("bias", ".scale", ".shift")) or "LayerNorm" in name or "layer_norm" in name
            assert (group["weight_decay"] == 0) == small, name
    decayed = {names[id(p)] for g in groups if g["weight_decay"] and g["part"] == "head" for p in g["params"]}
    assert decayed == {"head.inner.weight", "head.outer.weight"}


def test_a_pooler_that_nothing_uses_is_frozen():
    """Its gradient would be missing on every rank, which ZeRO takes for an error."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    shape = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = CcpModel(XLMRobertaModel(XLMRobertaConfig(**shape, intermediate_size=16)), "cls", 8, with_mlm=False)
    trained = {id(p) for group in parameter_groups(made, 0.01) for p in group["params"]}
    poolers = [(n, p) for n, p in made.named_parameters() if "pooler" in n]
    assert poolers
    assert not any(p.requires_grad or id(p) in trained for _, p in poolers)


def test_rates_are_written_into_the_optimisers_groups():
    optimizer = torch.optim.AdamW(parameter_groups(model(), 0.01), lr=1)
    set_learning_rates(SimpleNamespace(optimizer=optimizer), {"encoder": 0.25, "head": 0.5})
    assert {(group["part"], group["lr"]) for group in optimizer.param_groups} == {("encoder", 0.25), ("head", 0.5)}


@pytest.mark.parametrize(("world", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_a_global_batch_is_the_same_at_any_world_size(world, accumulation):
    settings = deepspeed_settings(PretrainConfig(groups_per_step=4), world)
    assert settings["train_micro_batch_size_per_gpu"] == 1
    assert settings["gradient_accumulation_steps"] == accumulation


def test_deepspeed_is_told_what_was_configured():
    config = PretrainConfig(
        deepspeed=DeepSpeedConfig(zero_stage=3, precision="bf16"), optimizer=OptimizerConfig(clip=0.5)
    )
    settings = deepspeed_settings(config, 1)
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_clipping"] == 0.5
    assert deepspeed_settings(PretrainConfig(), 1)["bf16"] == {"enabled": False}
    assert "optimizer" not in settings  # torch's AdamW is handed over: DeepSpeed's own needs a compiler


@pytest.mark.parametrize(
    ("shared_memory", "compilers", "note"),
    [
        (False, ["g++"], "gloo"),
        (True, ["g++"], "gloo and DeepSpeed's shared-memory extension"),
        (True, ["clang++"], "gloo and DeepSpeed's shared-memory extension"),
        (True, [], "gloo (DeepSpeed's shared-memory extension is not built: no C++ compiler)"),
    ],
)
def test_the_extension_is_built_only_where_it_is_wanted_and_can_be(monkeypatch, shared_memory, compilers, note):
    monkeypatch.setattr(engine.shutil, "which", lambda name: f"/bin/{name}" if name in compilers else None)
    config = DeepSpeedConfig(shared_memory=shared_memory)
    assert engine.communication_note(config) == note
    compatible = {"deepspeed_shm_comm": True, "other": True}
    engine._choose_communication(compatible, config)
    assert compatible == {"deepspeed_shm_comm": shared_memory and bool(compilers), "other": True}
