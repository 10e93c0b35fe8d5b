"""The loss by language against a plain mean over each language's rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccp_ray.language_loss import joined_by_language, plain_names, split_by_language


def test_two_ranks_and_three_steps_give_each_languages_own_mean():
    rng = np.random.default_rng(0)
    steps, seen = [], {}
    for langs in (["de", "en", "de", "fr"], ["en", "en", "en", "en"], ["fr", "de", "en", "de"]):
        losses = rng.random(4)
        for lang, loss in zip(langs, losses, strict=True):
            seen.setdefault(lang, []).append(loss)
        means: dict[str, float] = {"loss": float(losses.mean())}
        for rank in (0, 1):
            own = slice(2 * rank, 2 * rank + 2)
            vectors, shares = split_by_language(torch.tensor(losses[own]), langs[own], langs)
            assert list(vectors) == [f"loss/{lang}" for lang in sorted(set(langs))]
            for name, vector in vectors.items():  # what `mean_over_ranks` does
                means[name] = means.get(name, 0.0) + float(vector.mean()) / 2
        steps.append(means | shares)
    assert joined_by_language(steps) == pytest.approx({lang: np.mean(seen[lang]) for lang in sorted(seen)})
    assert plain_names(steps[0]) == ["loss"]


def test_no_graph_is_kept_and_no_language_is_made_up():
    losses = torch.ones(2, requires_grad=True)
    vectors, shares = split_by_language(losses * 2, ["a", "b"], ["a", "b"])
    assert not any(vector.requires_grad for vector in vectors.values())
    assert shares == {"share/a": 0.5, "share/b": 0.5}
    assert joined_by_language([{"loss": 1.0}]) == {}
