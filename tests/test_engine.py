"""Learning rates, parameter groups and what DeepSpeed is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
import training_ranks
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks

from ccp_ray import engine
from ccp_ray.encoder import new_model
from ccp_ray.engine import learning_rates, parameter_groups, set_learning_rates
from ccp_ray.engine_settings import deepspeed_settings
from ccp_ray.errors import UsageError
from ccp_ray.objective import CcpModel
from ccp_ray.optimizer_state import snapshot
from ccp_ray.pretrain_config import OptimizerConfig, PretrainConfig
from ccp_ray.training_config import DeepSpeedConfig


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


def _first_moment_squares(rank: int, world: int, clips: list[float]) -> dict[tuple[int, float], float]:
    """By ZeRO stage and clip: this rank's part of the squared norm of Adam's first moment after a step."""
    found = {}
    for stage in range(4):
        for clip in clips:
            changes: dict[str, Any] = {"deepspeed": {"zero_stage": stage}, "optimizer": {"clip": clip}}
            step = training_ranks.training_step(training_ranks.config(**changes), rank, world)
            step.run(0)
            moments = [value for name, value in snapshot(step.engine)[0].items() if name.endswith(":exp_avg")]
            found[stage, clip] = sum(float(value.double().square().sum()) for value in moments)
    return found


@pytest.mark.timeout(300)
def test_gradients_are_clipped_to_their_norm_under_every_zero_stage():
    """After one step the first moment is (1 - beta) times the gradient that Adam was given, here of norm `clip`."""
    clips = [0.0, 0.01, 100.0]
    ranks = run_ranks(2, _first_moment_squares, clips)
    norms = {key: sum(rank[key] for rank in ranks) ** 0.5 / (1 - OptimizerConfig().betas[0]) for key in ranks[0]}
    whole = norms[0, 0.0]
    assert 0.02 < whole < 100
    for stage in range(4):
        assert [norms[stage, clip] for clip in clips] == pytest.approx([whole, 0.01, whole], rel=1e-4)


def _layer_passes(rank: int, world: int, choices: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    """How often a layer's inside ran in a step, forward and backward; whether DeepSpeed steps on the host."""
    found = []
    for choice in choices:
        step = training_ranks.training_step(training_ranks.config(deepspeed=choice), rank, world)
        modules = step.engine.module.named_modules()
        layer = next(module for name, module in modules if name.endswith("layer.0.intermediate.dense"))
        passes: list[int] = []
        layer.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        step.run(0)
        does = step.engine.optimizer
        on_host = getattr(does, "cpu_offload", False) or getattr(does, "offload_optimizer", False)
        found.append((len(passes), bool(on_host)))
    return found


@pytest.mark.timeout(300)
def test_activations_are_computed_again_and_the_optimiser_is_on_the_host_where_asked():
    more = {"activation_checkpointing": True, "offload_optimizer": True}
    choices = [{"zero_stage": stage, **extra} for stage in (1, 2, 3) for extra in ({}, more)]
    (found,) = run_ranks(1, _layer_passes, choices)
    passes = found[0][0]
    assert passes > 0
    assert found == [(passes, False), (2 * passes, True)] * 3


def test_an_encoder_that_cannot_compute_again_is_refused_with_its_type():
    made = model()
    made.model.supports_gradient_checkpointing = False
    config = PretrainConfig(deepspeed=DeepSpeedConfig(activation_checkpointing=True))
    with pytest.raises(
        UsageError, match=r"activation_checkpointing=true: '\w[\w-]+' encoders \(encoder\.source\) cannot"
    ):
        engine.start_engine(made, config, 1)


def test_bf16_on_a_gpu_without_it_is_refused_with_both_keys(monkeypatch):
    import deepspeed  # noqa: F401 - it looks for a GPU when it is imported

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some T4")
    monkeypatch.setattr(engine, "native_bf16", lambda: False)
    config = PretrainConfig(deepspeed=DeepSpeedConfig(precision="bf16"))
    with pytest.raises(UsageError, match=r"precision=bf16 with resources\.gpu=true: Some T4 has no bf16; use fp16"):
        engine.start_engine(model(), config, 1)
