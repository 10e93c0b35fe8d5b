"""The model that is trained: a group's result depends on the group alone, however it is cut up."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.batching import pad
from ccp_ray.contexts import Pairs
from ccp_ray.encoder import new_model
from ccp_ray.errors import UsageError
from ccp_ray.head import Statistics
from ccp_ray.mlm import IGNORED
from ccp_ray.objective import CcpModel, GroupOutput, MaskedBatch, collate, pad_chunks

CPU = torch.device("cpu")
PAD = 1


def model(with_mlm=True, pooling="mean", dropout=0.0, seed=0) -> CcpModel:
    shape = tiny_models.architecture(dropout=dropout)
    made = new_model(shape, tiny_models.tokenizer(), seed)
    return CcpModel(made if with_mlm else made.base_model, pooling, 8, with_mlm).train()


def pairs(count=6, seed=0) -> Pairs:
    rng = np.random.default_rng(seed)
    rows = [np.array([0, *rng.integers(4, 30, size=rng.integers(1, 18)), 2]) for _ in range(2 * count)]
    return Pairs(rows[:count], rows[count:], rng.integers(1 << 40, size=count), rng.integers(1 << 40, size=count))


def masked_batch(seed=0) -> MaskedBatch:
    rng = np.random.default_rng(seed)
    ids_BT, mask_BT = pad([np.array([0, *rng.integers(4, 30, size=n), 2]) for n in (5, 12, 8)], PAD)
    labels_BT = np.where((rng.random(ids_BT.shape) < 0.3) & (ids_BT > 3), ids_BT, IGNORED)
    return MaskedBatch(*(torch.from_numpy(array) for array in (ids_BT, mask_BT, labels_BT)))


def running() -> Statistics:
    return Statistics(torch.linspace(-0.1, 0.1, 8), torch.linspace(0.05, 0.5, 8))


def run(made: CcpModel, group: Pairs, chunks=1, side=0, statistics=None, masked=None) -> GroupOutput:
    return made(collate(group, masked, PAD, chunks, CPU), side, statistics)


def flat(output: GroupOutput) -> list[torch.Tensor]:
    return [*output.centre, *output.context, *output.statistics, output.mlm]


@pytest.mark.parametrize("chunks", [2, 4, 12])
def test_the_number_of_chunks_does_not_change_a_groups_result(chunks):
    made, masked = model(), masked_batch()
    whole = run(made, pairs(), 1, statistics=running(), masked=masked)
    parts = run(made, pairs(), chunks, statistics=running(), masked=masked)
    for a, b in zip(flat(whole), flat(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_do_not_depend_on_the_chunks():
    gradients = []
    for chunks in (1, 4):
        made = model(with_mlm=False)
        output = run(made, pairs(), chunks, statistics=running())
        (output.centre.vectors_PD * output.context.vectors_PD.flip(0)).sum().backward()
        gradients.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(one.abs().max()) for one in gradients[0].values())
    for name, one in gradients[0].items():  # attention's key biases have gradient zero: only rounding is left of it
        torch.testing.assert_close(one, gradients[1][name], rtol=1e-4, atol=1e-6 * max(largest, 1.0))


def test_a_group_does_not_depend_on_the_groups_before_it():
    made = model(dropout=0.3)
    results = []
    for before in (0, 3):
        for other in range(before):
            run(made, pairs(seed=10 + other), statistics=running())
        torch.manual_seed(77)  # as the training loop does for each group
        results.append(run(made, pairs(), 2, statistics=running(), masked=masked_batch()))
    for a, b in zip(flat(results[0]), flat(results[1]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("side", [0, 1])
def test_sides_are_the_head_on_the_encoders_vectors(side, pooling):
    """Row by row without padding, through the encoder that is saved in the end."""
    made, group = model(with_mlm=False, pooling=pooling).eval(), pairs()
    output = run(made, group, 3, side, running())
    batch_side = []
    for number, (rows, got) in enumerate(zip(group[:2], (output.centre, output.context), strict=True)):
        hidden = [made.model(input_ids=torch.from_numpy(row)[None]).last_hidden_state[0] for row in rows]
        vectors_PH = torch.stack([h[0] if pooling == "cls" else h.mean(0) for h in hidden])
        expected_PD, own = made.head(vectors_PH, running() if number == side else None)
        torch.testing.assert_close(got.vectors_PD, expected_PD, rtol=1e-4, atol=1e-5)
        assert got.hashes_P.tolist() == group[2 + number].tolist()
        batch_side += [own] if number != side else []
    torch.testing.assert_close(output.statistics, batch_side[0], rtol=1e-4, atol=1e-5)


def test_before_the_first_update_both_sides_take_the_batchs_statistics():
    made, group = model(), pairs()
    zero, one = run(made, group, side=0), run(made, group, side=1)
    torch.testing.assert_close(zero.centre.vectors_PD, one.centre.vectors_PD)
    torch.testing.assert_close(zero.context.vectors_PD, one.context.vectors_PD)
    assert not torch.allclose(zero.statistics.mean_D, one.statistics.mean_D)


def test_gradients_reach_the_encoder_from_both_sides():
    for side in (0, 1):
        for which in ("centre", "context"):
            made = model(with_mlm=False)
            vectors_PD = getattr(run(made, pairs(), side=side, statistics=running()), which).vectors_PD
            (vectors_PD[:, 0]).sum().backward()
            assert made.model.embeddings.word_embeddings.weight.grad.any()


def test_masked_language_modelling_is_transformers():
    made, masked = model(), masked_batch()
    expected = made.model(input_ids=masked.ids_BT, attention_mask=masked.mask_BT, labels=masked.labels_BT).loss
    torch.testing.assert_close(run(made, pairs(), masked=masked).mlm, expected)
    assert run(made, pairs()).mlm.item() == 0


def test_tokens_are_counted_over_pairs_and_masked_sentences():
    group, masked = pairs(), masked_batch()
    lengths = [len(row) for row in [*group.centres, *group.contexts]]
    real, padded = collate(group, None, PAD, 1, CPU).tokens
    assert (real, padded) == (sum(lengths), max(lengths) * len(lengths))
    with_mlm = collate(group, masked, PAD, 4, CPU).tokens
    assert with_mlm[0] == real + int(masked.mask_BT.sum())
    assert with_mlm[1] < padded + masked.mask_BT.numel()


@given(st.lists(st.integers(1, 20), min_size=2, max_size=30), st.data())
def test_chunks_hold_all_rows_and_the_order_puts_them_back(lengths, data):
    chunks = data.draw(st.integers(1, len(lengths)))
    rows = [np.full(length, 5 + i, dtype=np.int64) for i, length in enumerate(lengths)]
    padded, order = pad_chunks(rows, PAD, chunks, CPU)
    assert len(padded) == chunks
    flat_rows = [ids[mask.bool()] for ids_BT, mask_BT in padded for ids, mask in zip(ids_BT, mask_BT, strict=True)]
    assert [flat_rows[i].tolist() for i in order] == [row.tolist() for row in rows]


def test_an_encoder_without_a_known_prediction_head_is_refused_before_any_work():
    with pytest.raises(UsageError, match=r"mlm\.weight"):
        CcpModel(tiny_models.bert(), "cls", 8, with_mlm=True)
    CcpModel(tiny_models.bert(), "cls", 8, with_mlm=False)
