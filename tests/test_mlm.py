"""Masking rates against the binomial law, and the loss at chosen positions against the whole vocabulary's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM  # isort: skip

from ccp_ray.errors import UsageError
from ccp_ray.mlm import IGNORED, masked_copy, mlm_loss, prediction_head

SPECIAL, MASK, VOCABULARY = {0, 1, 2, 4}, 4, 1000
SMALL = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def sentences(rows: int, length: int, seed: int = 0) -> np.ndarray:
    ids_BT = np.random.default_rng(seed).integers(5, VOCABULARY, size=(rows, length))
    ids_BT[:, 0], ids_BT[:, -2], ids_BT[:, -1] = 0, 2, 1  # start, end, padding
    return ids_BT


def likely(count: int, trials: int, share: float) -> bool:
    return stats.binomtest(count, trials, share).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_shares_are_those_of_the_binomial_law(share):
    ids_BT = sentences(400, 203)
    out_BT, labels_BT = masked_copy(ids_BT, SPECIAL, MASK, VOCABULARY, share, np.random.default_rng(1))
    chosen_BT = labels_BT != IGNORED
    chosen = int(chosen_BT.sum())
    assert likely(chosen, 400 * 200, share)
    masked_BT, kept_BT = chosen_BT & (out_BT == MASK), chosen_BT & (out_BT == ids_BT)
    random_BT = chosen_BT & ~masked_BT & ~kept_BT
    # A random token is the mask or the token itself once in a vocabulary each.
    assert likely(int(masked_BT.sum()), chosen, 0.8 + 0.1 / VOCABULARY)
    assert likely(int(kept_BT.sum()), chosen, 0.1 + 0.1 / VOCABULARY)
    assert likely(int(random_BT.sum()), chosen, 0.1 * (1 - 2 / VOCABULARY))
    drawn = out_BT[random_BT]
    assert stats.kstest(drawn, "uniform", args=(0, VOCABULARY)).pvalue > 1e-4
    by_position = chosen_BT[:, 1:-2].sum(axis=0)
    assert all(likely(int(count), 400, share) for count in by_position)


@given(st.integers(1, 8), st.integers(3, 30), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_labels_stand_where_tokens_were_chosen_and_nothing_else_changes(rows, length, share, seed):
    ids_BT = sentences(rows, length, seed)
    before = ids_BT.copy()
    out_BT, labels_BT = masked_copy(ids_BT, SPECIAL, MASK, VOCABULARY, share, np.random.default_rng(seed))
    chosen_BT = labels_BT != IGNORED
    assert np.array_equal(labels_BT[chosen_BT], before[chosen_BT])
    assert np.array_equal(out_BT[~chosen_BT], before[~chosen_BT])
    assert not chosen_BT[np.isin(before, list(SPECIAL))].any()
    assert np.array_equal(ids_BT, before)
    assert out_BT.dtype == labels_BT.dtype == np.int64  # what torch's embedding and cross-entropy take


def test_the_same_generator_makes_the_same_copy():
    one, other = (
        masked_copy(sentences(4, 20), SPECIAL, MASK, VOCABULARY, 0.15, np.random.default_rng(7)) for _ in range(2)
    )
    assert np.array_equal(one, other)


def language_model(family: str) -> tuple[nn.Module, nn.Module]:
    """(model, its encoder)"""
    torch.manual_seed(0)
    if family == "bert":
        model = BertForMaskedLM(BertConfig(**SMALL))
    else:
        model = XLMRobertaForMaskedLM(XLMRobertaConfig(**SMALL, max_position_embeddings=40))
    return model.eval(), model.base_model


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_loss_is_that_of_the_whole_vocabulary_at_every_position(family):
    model, encoder = language_model(family)
    rng = np.random.default_rng(0)
    ids_BT = torch.from_numpy(rng.integers(5, 50, size=(3, 9)))
    labels_BT = torch.where(torch.from_numpy(rng.random((3, 9)) < 0.4), ids_BT, IGNORED)
    expected = model(input_ids=ids_BT, labels=labels_BT).loss  # transformers scores all positions
    got = mlm_loss(prediction_head(model), encoder(input_ids=ids_BT).last_hidden_state, labels_BT)
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    found = torch.autograd.grad(got, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_no_chosen_token_costs_nothing_and_stays_in_the_graph():
    model, encoder = language_model("xlm-roberta")
    ids_BT = torch.full((2, 5), 7)
    hidden_BTD = encoder(input_ids=ids_BT).last_hidden_state
    loss = mlm_loss(prediction_head(model), hidden_BTD, torch.full((2, 5), IGNORED))
    assert loss.item() == 0
    loss.backward()  # every rank must reduce the same parameters
    gradients = [parameter.grad for parameter in prediction_head(model).parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_an_unknown_family_is_refused_by_name():
    model = DistilBertForMaskedLM(DistilBertConfig(vocab_size=50, dim=8, n_layers=1, n_heads=2, hidden_dim=16))
    with pytest.raises(UsageError, match=r"mlm\.weight.*'distilbert'.*set mlm\.weight=0"):
        prediction_head(model)


def test_a_bare_encoder_has_no_prediction_head():
    with pytest.raises(UsageError, match="'xlm-roberta'"):
        prediction_head(language_model("xlm-roberta")[1])
