"""The loss by language, from the same vector that carries a step's other metrics over the ranks.

A step's loss is a mean over rows (groups, or questions) of several languages. For each language that the step has, the
vector gets `loss/LANG`: the mean over all rows of the loss where the row is of that language and 0 elsewhere. How many
rows are of a language is known on every rank, so `share/LANG` needs no message. The ratio of both, summed over steps,
is the mean over that language's rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

_LOSS, _SHARE = "loss/", "share/"


def split_by_language(
    losses_R: torch.Tensor, own: Sequence[str], everyones: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Vectors [R] of which the mean over all ranks is to be taken, and the shares.

    own: the languages of this rank's rows [R]. everyones: of all ranks' rows; every rank gives the same.
    """
    shares = {lang: count / len(everyones) for lang, count in sorted(Counter(everyones).items())}
    rows_LR = torch.tensor([[row == lang for row in own] for lang in shares], device=losses_R.device)
    parts_LR = rows_LR * losses_R.detach()
    losses = {f"{_LOSS}{lang}": part_R for lang, part_R in zip(shares, parts_LR, strict=True)}
    return losses, {f"{_SHARE}{lang}": share for lang, share in shares.items()}


def joined_by_language(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean loss of each language's rows over these steps, in name order."""
    sums: Counter[str] = Counter()
    for step in steps:
        sums.update({name: value for name, value in step.items() if name.startswith((_LOSS, _SHARE))})
    langs = sorted(name.removeprefix(_SHARE) for name in sums if name.startswith(_SHARE))
    return {lang: sums[f"{_LOSS}{lang}"] / sums[f"{_SHARE}{lang}"] for lang in langs}


def plain_names(step: Mapping[str, float]) -> list[str]:
    """The names of a step's metrics that are not of one language."""
    return [name for name in step if not name.startswith((_LOSS, _SHARE))]
