"""The leakage probe on heads and pairs built to leak, on those that cannot, and against InfoNCE spelled out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from ccp_ray import leakage as module
from ccp_ray.head import ProjectionHead, Statistics
from ccp_ray.leakage import leakage

H, T = 32, 0.1


def pairs(shared: float, count: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres and contexts [count, H] of unit variance; `shared` of it is common to the two of a pair."""
    draw = torch.Generator().manual_seed(seed)
    common, *own = (torch.randn(count, H, generator=draw) for _ in range(3))
    centre, context = (shared**0.5 * common + (1 - shared) ** 0.5 * one for one in own)
    return centre, context


def headed(norm, running_side=None, seed=0):
    """Both sides through one projection head; `running_side` takes fixed statistics."""
    torch.manual_seed(seed)
    head = ProjectionHead(H, H, norm)
    fixed = [Statistics(torch.zeros(H), torch.ones(H)) if side == running_side else None for side in (0, 1)]

    def project(centre_PH, context_PH):
        with torch.no_grad():
            return head(centre_PH, fixed[0])[0], head(context_PH, fixed[1])[0]

    return project


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize(
    ("norm", "running_side"), [("asymmetric", 0), ("asymmetric", 1), ("layer", None), ("none", None)]
)
@pytest.mark.parametrize("size", [2, 8, 64])
def test_where_one_side_does_not_see_its_batch_nothing_leaks(norm, running_side, size):
    assert abs(leakage(headed(norm, running_side), *pairs(0.8), size, T)) <= 1e-5


@pytest.mark.parametrize("shared", [0.3, 0.9])
@pytest.mark.parametrize("size", [8, 32])
def test_batch_statistics_on_both_sides_leak_what_the_pairs_share(shared, size):
    """r / (P T) less the anchors' eighth: the covariance of the two batches' means, in logits."""

    def project(centre_PH, context_PH):
        return unit(centre_PH - centre_PH.mean(0)), unit(context_PH - context_PH.mean(0))

    mean = np.mean([leakage(project, *pairs(shared, seed=seed), size, T) for seed in range(12)])
    assert mean == pytest.approx(shared * (7 / 8) / (size * T), rel=0.3)


@pytest.mark.parametrize("norm", ["asymmetric", "symmetric"])  # asymmetric without running statistics: the first step
def test_the_projection_head_leaks_with_batch_statistics_on_both_sides(norm):
    found = [leakage(headed(norm), *pairs(0.9), size, T) for size in (4, 16, 64)]
    assert found[0] > 3 * found[1] > 9 * found[2] > 0.1


def test_batch_statistics_of_unrelated_sides_do_not_leak():
    """Each side depends on its batch, but on nothing of the other's."""
    found = [leakage(headed("symmetric", seed=seed), *pairs(0.0, seed=seed), 64, T) for seed in range(6)]
    assert abs(np.mean(found)) < 0.01


def test_context_that_says_nothing_is_found_by_its_batch_alone():
    """Built to leak: the contexts have nothing to do with the centres, but a batch is normalised jointly.

    Both sides are less the joint mean, as if one batch norm saw centres and contexts together.
    """

    def project(centre_PH, context_PH):
        mean_H = torch.cat([centre_PH, context_PH]).mean(0)
        return unit(centre_PH - mean_H), unit(context_PH - mean_H)

    centre, context = pairs(0.0)
    assert leakage(project, centre, context, 4, T) > 0.5
    assert abs(leakage(lambda a, b: (unit(a), unit(b)), centre, context, 4, T)) <= 1e-5


def test_a_head_that_writes_down_its_batch_leaks_all_there_is():
    """Each side is nothing but the mean of its batch; the pairs are equal, so the means are."""

    def project(centre_PH, context_PH):
        return tuple(unit(side.mean(0, keepdim=True).expand_as(side)) for side in (centre_PH, context_PH))

    centre, _ = pairs(1.0)
    found = leakage(project, centre, centre, 8, T)
    assert 0.5 / T < found < 1 / T  # the same group's similarity is 1, another's that of unrelated means


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_it_is_the_loss_of_shuffled_groups_less_that_of_unshuffled_ones(temperature):
    """InfoNCE over the copies of each anchor, against the mean over all shifts of the groups, in NumPy."""
    seen = []
    project = headed("symmetric")

    def spy(centre_PH, context_PH):
        seen.append([side.numpy() for side in project(centre_PH, context_PH)])
        return tuple(torch.from_numpy(side) for side in seen[-1])

    found = leakage(spy, *pairs(0.8), 16, temperature)
    groups, losses = len(seen), {shift: [] for shift in range(len(seen))}
    for anchor in range(2):  # an eighth of 16
        centres, contexts = (np.stack([group[side][anchor] for group in seen]) for side in (0, 1))
        log_share = log_softmax(centres @ contexts.T / temperature, axis=1)
        for shift in losses:
            losses[shift] += [-log_share[g, (g + shift) % groups] for g in range(groups)]
    shuffled = np.mean([losses[shift] for shift in range(1, groups)])
    assert found == pytest.approx(shuffled - np.mean(losses[0]), abs=2e-5)
    assert found > 0.02


@given(st.integers(1, 300), st.integers(1, 300))
def test_anchors_stand_in_every_group_and_the_others_are_no_anchors(have, size):
    groups_GP = module._groups(have, size)
    assert groups_GP.shape == (16, size)
    anchors = module._anchors(have, size)
    assert 1 <= anchors <= max(1, size // 8)
    assert (groups_GP[:, :anchors] == np.arange(anchors)).all()
    if have > 1:
        assert (groups_GP[:, anchors:] >= anchors).all()
        assert (groups_GP < have).all()


def test_the_same_pairs_give_the_same_figure_and_one_pair_a_group_gives_none():
    project = headed("symmetric")
    assert leakage(project, *pairs(0.8), 8, T) == leakage(project, *pairs(0.8), 8, T) != 0
    assert leakage(headed("layer"), *pairs(0.8), 1, T) == 0
