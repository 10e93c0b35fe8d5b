"""Packed layers against NumPy and against the plain ones that they replace."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
import transformers

from ccp_ray.encoder import Encoder
from ccp_ray.hardware import native_bf16
from ccp_ray.packed_linear import FAMILIES, PackedLinear, pack_linear_layers


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 7), (40, 64), (1100, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_numpy(shape, bias):
    torch.manual_seed(0)
    plain = torch.nn.Linear(shape[-1], 19, bias=bias)
    inputs = torch.randn(shape)
    expected = inputs.double().numpy() @ plain.weight.detach().double().numpy().T
    expected += plain.bias.detach().double().numpy() if bias else 0
    with torch.inference_mode():
        np.testing.assert_allclose(PackedLinear(plain)(inputs).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not native_bf16(), reason="this CPU has no bf16")
def test_bf16_products_are_rounded_once():
    """Sums run in fp32: the only error is that of the result's 8 bits."""
    torch.manual_seed(0)
    plain = torch.nn.Linear(512, 64).bfloat16()
    inputs = torch.randn(50, 512).bfloat16()
    expected = torch.nn.functional.linear(inputs.double(), plain.weight.double(), plain.bias.double())
    with torch.inference_mode():
        found = PackedLinear(plain)(inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected.detach(), rtol=2**-8, atol=1e-4)


class Adapted(torch.nn.Linear):
    """As adapters and quantised layers are: a linear layer that computes something else."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) + 1


def test_every_plain_layer_is_replaced_and_no_other():
    model = tiny_models.bert()
    attention = model.encoder.layer[0].attention.self
    attention.query = Adapted(16, 16)
    before = sum(type(layer) is torch.nn.Linear for layer in model.modules())
    pack_linear_layers(model)
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(PackedLinear) == before > 0
    assert torch.nn.Linear not in kinds
    assert kinds.count(Adapted) == 1


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_computes_the_same(family):
    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 1}
    own = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2} if family == "distilbert" else small
    torch.manual_seed(0)
    shape = transformers.AutoConfig.for_model(family, **{**small, **own})
    model = transformers.AutoModel.from_config(shape).eval()
    ids_BT, mask_BT = torch.randint(5, 40, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask_BT[1, 5:] = 0
    with torch.inference_mode():
        plain_BTD = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        pack_linear_layers(model)
        packed_BTD = model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    assert any(isinstance(layer, PackedLinear) for layer in model.modules())
    torch.testing.assert_close(packed_BTD[mask_BT.bool()], plain_BTD[mask_BT.bool()], rtol=1e-5, atol=1e-5)


def test_a_family_that_reads_its_weights_stays_as_it_is():
    shape = transformers.T5Config(vocab_size=31, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = transformers.T5EncoderModel(shape).eval()
    pack_linear_layers(model)
    assert model(input_ids=torch.tensor([[3, 4]])).last_hidden_state.isfinite().all()


def test_a_packed_encoder_is_neither_saved_nor_trained(tmp_path):
    packed = tiny_models.encoder().packed()
    with pytest.raises(RuntimeError, match="no weights to save"):
        packed.save(tmp_path / "saved")
    with pytest.raises(RuntimeError, match="cannot be trained"):
        packed.model.train()


def test_a_packed_encoder_gives_the_vectors_of_the_plain_one(tmp_path):
    texts = ["a", "bcd", "c" * 20, "de"]
    folder = str(tiny_models.plain_folder(tmp_path))
    plain = Encoder.load(folder).encode(texts)
    packed = Encoder.load(folder).packed()
    np.testing.assert_allclose(packed.encode(texts), plain, rtol=1e-5, atol=1e-6)
    # Other batches, the same rows: rounding alone may differ.
    np.testing.assert_allclose(packed.encode(texts, token_budget=8), plain, rtol=1e-5, atol=1e-6)


def is_packed(model) -> bool:
    pack_linear_layers(model)
    return any(isinstance(layer, PackedLinear) for layer in model.modules())


def test_where_there_is_no_onednn_layers_stay(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not is_packed(tiny_models.bert())


def test_in_bf16_that_the_cpu_lacks_layers_stay(monkeypatch):
    """torch emulates it; oneDNN refuses."""
    monkeypatch.setattr("ccp_ray.packed_linear.native_bf16", lambda where: False)
    assert not is_packed(tiny_models.bert().bfloat16())
    assert is_packed(tiny_models.bert())
