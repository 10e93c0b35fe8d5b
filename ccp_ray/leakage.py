"""The leakage probe: how well are pairs matched from batch statistics alone?

Where both sides of a pair are normalised by their own batches, each carries a trace of its batch: minus the mean of the
other centres here, minus the mean of their contexts there, and those are alike. So the model can tell that two
sentences stood in the same group, and with that a positive from a bank negative, without reading either.

To see the trace and nothing else, the content must be the same everywhere. A few anchor pairs are put, as they are,
into every one of G groups, whose other pairs differ. All groups go through the head as in training. An anchor's G
copies then differ by the statistics of their groups and by nothing else, and InfoNCE is asked to find, among the G
copies of the anchor's context, the one from the centre's own group:

    leakage = loss with the contexts shuffled between the groups - loss unshuffled                    [nats]

The mean over all shuffles that keep no context in its place has a closed form, for the softmax's denominator is in
both terms: the mean of the logits of the same group minus the mean of the others'. If either side does not depend on
its group, every column (or row) of the logits is constant, and the difference is 0 exactly, up to rounding: so it is
with running statistics on one side, with layer norm and without a norm. Shuffled sentences that differ in content
would be told apart by content, and a drop in loss would not say why; here it can only be the statistics.

With batch statistics of P pairs on both sides it is about r / (P temperature), r being how much of the variance the
two sides of a pair share: 1/8 nats for r = 0.8, P = 64 and temperature 0.1.

Groups are drawn with replacement from the probe's pairs, so they vary as groups of P sentences of the whole language
do, however few the probe has. The anchors' share of a group (an eighth) does not vary: the figure is low by as much.
Cost: 4 G passes of the head over P rows a language, none of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ccp_ray.sampling import random_generator

_GROUPS = 16
_ANCHOR_SHARE = 8
_DIGITS = 5  # the similarities are fp32: the rest is rounding

Project = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def leakage(
    project: Project, centres_NH: torch.Tensor, contexts_NH: torch.Tensor, pairs_per_group: int, temperature: float
) -> float:
    """Nats by which pairs are told from batch statistics alone; 0 where nothing leaks.

    project: the two sides of one group ([P, H] each) to unit vectors ([P, D] each), as training does it.
    Of pairs_per_group = 1 there is no batch to give a hint: 0.
    """
    groups_GP = _groups(len(centres_NH), pairs_per_group)
    anchors = _anchors(len(centres_NH), pairs_per_group)
    sides = [project(centres_NH[rows_P], contexts_NH[rows_P]) for rows_P in torch.from_numpy(groups_GP)]
    centre_GAD, context_GAD = (torch.stack([side[i][:anchors].float() for side in sides]) for i in (0, 1))
    logits_AGG = torch.einsum("gad,had->agh", centre_GAD, context_GAD).double() / temperature
    same_A = logits_AGG.diagonal(dim1=1, dim2=2).mean(1)
    others_A = (logits_AGG.sum((1, 2)) - same_A * _GROUPS) / (_GROUPS * (_GROUPS - 1))
    return round(float((same_A - others_A).mean()), _DIGITS) + 0.0  # + 0.0: no "-0.0" in metrics rows


def _anchors(have: int, pairs_per_group: int) -> int:
    return max(1, min(have, pairs_per_group) // _ANCHOR_SHARE)


def _groups(have: int, pairs_per_group: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """[G, P]: the anchors 0, 1, … first in every group, then pairs drawn from the others with replacement."""
    anchors = _anchors(have, pairs_per_group)
    rest = random_generator(0, "leakage").integers(
        anchors, max(have, anchors + 1), (_GROUPS, pairs_per_group - anchors)
    )
    return np.concatenate([np.tile(np.arange(anchors), (_GROUPS, 1)), rest], axis=1)
