"""The momentum key encoder against He et al.'s update written out, and the group that it takes part in."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch

from ccp_ray.contexts import Pairs
from ccp_ray.encoder import new_model
from ccp_ray.head import Statistics
from ccp_ray.momentum import KeyEncoder
from ccp_ray.objective import CcpModel, KeySide, collate

CPU = torch.device("cpu")


def model(with_mlm=True, dropout=0.0) -> CcpModel:
    made = new_model(tiny_models.architecture(dropout=dropout), tiny_models.tokenizer(), 0)
    return CcpModel(made if with_mlm else made.base_model, "mean", 8, with_mlm).train()


def key_encoder(trained: CcpModel, decay=0.9, dtype=torch.float32) -> KeyEncoder:
    made = KeyEncoder(trained, decay)
    made.place(CPU, dtype)
    return made


def pairs(count=6, seed=0) -> Pairs:
    rng = np.random.default_rng(seed)
    rows = [np.array([0, *rng.integers(4, 30, size=rng.integers(1, 18)), 2]) for _ in range(2 * count)]
    return Pairs(rows[:count], rows[count:], rng.integers(1 << 40, size=count), rng.integers(1 << 40, size=count))


def running() -> Statistics:
    return Statistics(torch.linspace(-0.1, 0.1, 8), torch.linspace(0.05, 0.5, 8))


def disturb(trained: CcpModel, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_follows_the_trained_weights_as_moco_does(dtype):
    trained = model()
    keys = key_encoder(trained, 0.9, dtype)
    parts = {"encoder": trained.model.base_model, "head": trained.head}
    names = [(f"momentum.{part}.{name}", p) for part, module in parts.items() for name, p in module.named_parameters()]
    expected = {name: parameter.detach().numpy().astype(np.float64) for name, parameter in names}
    for step in range(3):
        disturb(trained, step)
        keys.follow(trained)
        expected = {name: 0.9 * expected[name] + 0.1 * p.detach().double().numpy() for name, p in names}
    state = keys.state()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert value.dtype == torch.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)
    weight = keys.model.head.inner.weight
    assert weight.dtype == dtype
    assert torch.equal(weight, state["momentum.head.inner.weight"].to(dtype))


def test_small_updates_are_not_lost_in_bf16():
    """At 0.99 one step moves a weight by less than bf16 can tell: the averages must be fp32."""
    trained = model()
    keys = key_encoder(trained, 0.99, torch.bfloat16)
    before = keys.model.head.inner.weight.clone()
    with torch.no_grad():
        trained.head.inner.weight += 0.3 * trained.head.inner.weight
    for _ in range(200):
        keys.follow(trained)
    torch.testing.assert_close(keys.model.head.inner.weight.float(), 1.26 * before.float(), rtol=0.02, atol=1e-3)


def test_it_is_a_copy_and_the_trained_model_stays_as_it_was():
    trained = model()
    keys = key_encoder(trained)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert not any(parameter.requires_grad for parameter in keys.model.parameters())
    before = {name: value.clone() for name, value in keys.state().items()}
    disturb(trained, 1)
    assert all(torch.equal(value, before[name]) for name, value in keys.state().items())
    assert not any("lm_head" in name for name, _ in keys.model.named_parameters())


def test_what_was_saved_is_what_goes_on():
    trained = model()
    one, other = key_encoder(trained), key_encoder(model())
    disturb(trained, 1)
    one.follow(trained)
    saved = one.state()
    one.follow(trained)
    assert not torch.equal(saved["momentum.head.inner.weight"], one.state()["momentum.head.inner.weight"])
    other.load(saved)
    other.follow(trained)
    assert all(torch.equal(value, other.state()[name]) for name, value in one.state().items())
    batch = collate(pairs(), None, 1, 2, CPU, key_side=0).keys
    for a, b in zip(one.encode(batch, running()), other.encode(batch, running()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("side", [0, 1])
def test_before_it_moves_a_group_is_the_same_as_without(side):
    """Keys by the running statistics, queries by the batch's; statistics are of the keys here, of the queries there."""
    trained, group = model(), pairs()
    keys = key_encoder(trained)
    batch = collate(group, None, 1, 4, CPU, side)
    made = keys.encode(batch.keys, running())
    output = trained(batch, side, running(), made)
    plain = trained(collate(group, None, 1, 4, CPU), side, running())
    for got, expected in ((output.centre, plain.centre), (output.context, plain.context)):
        torch.testing.assert_close(got.vectors_PD, expected.vectors_PD, rtol=1e-4, atol=1e-5)
        assert torch.equal(got.hashes_P, expected.hashes_P)
    exchanged = trained(collate(group, None, 1, 4, CPU), 1 - side, running())
    torch.testing.assert_close(output.statistics, exchanged.statistics, rtol=1e-4, atol=1e-5)
    assert batch.tokens[0] == collate(group, None, 1, 4, CPU).tokens[0]
    assert len(batch.chunks) == len(batch.keys.chunks) == 2


def test_gradients_reach_the_queries_alone():
    trained, group = model(with_mlm=False), pairs()
    keys = key_encoder(trained)
    batch = collate(group, None, 1, 1, CPU, 1)
    made = keys.encode(batch.keys, running())
    assert isinstance(made, KeySide)
    assert not made.vectors_PD.requires_grad
    output = trained(batch, 1, running(), made)
    assert not output.context.vectors_PD.requires_grad
    (output.centre.vectors_PD * output.context.vectors_PD.flip(0)).sum().backward()
    assert trained.head.inner.weight.grad.any()
    assert all(parameter.grad is None for parameter in keys.model.parameters())


def test_keys_have_dropout_as_queries_do():
    keys = key_encoder(model(dropout=0.3))
    batch = collate(pairs(), None, 1, 1, CPU, 0).keys
    torch.manual_seed(1)
    one, other = keys.encode(batch, running()), keys.encode(batch, running())
    torch.manual_seed(1)
    again = keys.encode(batch, running())
    assert not torch.allclose(one.vectors_PD, other.vectors_PD)
    assert torch.equal(one.vectors_PD, again.vectors_PD)
