"""Every pooling against sentence-transformers' own module."""

from __future__ import annotations

import itertools

import pytest
import torch

from ccp_ray.encoder_config import POOLINGS
from ccp_ray.pooling import pool

MASK_BT = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])


def hidden(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


def theirs(hidden_BTD, mask_BT, modes):
    from sentence_transformers.models import Pooling

    features = {"token_embeddings": hidden_BTD, "attention_mask": mask_BT}
    return Pooling(hidden_BTD.shape[2], modes)(features)["sentence_embedding"]


@pytest.mark.parametrize("modes", [*POOLINGS, *itertools.combinations(POOLINGS, 2), ("max", "cls"), POOLINGS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_are_those_of_sentence_transformers(modes, dtype):
    got = pool(hidden(dtype), MASK_BT, modes)
    assert got.dtype == dtype
    torch.testing.assert_close(got, theirs(hidden(dtype), MASK_BT, modes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", POOLINGS)
def test_padding_reaches_no_pooling(mode):
    loud = hidden().masked_fill(MASK_BT.unsqueeze(-1) == 0, 1e6)
    torch.testing.assert_close(pool(loud, MASK_BT, mode), pool(hidden(), MASK_BT, mode))
    assert pool(loud, MASK_BT, mode).abs().max() < 100


def test_means_in_bf16_are_summed_in_fp32():
    ones_BTD = torch.ones(1, 1000, 1, dtype=torch.bfloat16)  # bf16 counts to 256 and no further
    assert pool(ones_BTD, torch.ones(1, 1000, dtype=torch.long), "mean").item() == 1
    root = pool(ones_BTD, torch.ones(1, 1000, dtype=torch.long), "mean_sqrt_len_tokens").item()
    assert root == pytest.approx(1000**0.5, rel=0.01)
