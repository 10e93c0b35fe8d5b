"""Two dimensions of many: against scikit-learn, and laws."""

from __future__ import annotations

import numpy as np
import pytest

from ccp_ray.errors import DataError
from eval.projection import project


def test_projection_equals_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(0)
    vectors = {lang: rng.normal(size=(30, 8)) * np.arange(1, 9) + i for i, lang in enumerate(("fr", "en"))}
    found = project(vectors)
    oracle = decomposition.PCA(2).fit_transform(np.concatenate([vectors["en"], vectors["fr"]]))
    both = np.concatenate([found["en"], found["fr"]])
    assert list(found) == ["en", "fr"]
    assert np.allclose(np.abs(both), np.abs(oracle), atol=1e-9)


def test_projection_does_not_depend_on_the_order_of_languages_or_the_sign():
    rng = np.random.default_rng(1)
    vectors = {lang: rng.normal(size=(20, 5)).astype(np.float32) for lang in ("a", "b", "c")}
    turned = project(dict(reversed(vectors.items())))
    for lang, points in project(vectors).items():
        assert np.array_equal(points, turned[lang])
    weights = np.linalg.lstsq(vectors["a"] - np.concatenate(list(vectors.values())).mean(0), project(vectors)["a"])[0]
    assert (weights[np.abs(weights).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("rows", [np.ones((1, 4)), np.ones((5, 4)), np.arange(5.0)[:, None]])
def test_projection_fills_missing_components_with_zeros(rows):
    points = project({"en": rows})["en"]
    assert points.shape == (len(rows), 2)
    assert np.array_equal(points[:, 1], np.zeros(len(rows)))
    assert np.ptp(points[:, 0]) == pytest.approx(np.ptp(rows))


@pytest.mark.parametrize(
    "vectors",
    [{}, {"en": np.empty((0, 3))}, {"en": np.ones((2, 3)), "fr": np.ones((2, 4))}, {"en": np.full((2, 3), np.nan)}],
)
def test_projection_refuses_what_it_cannot_place(vectors):
    with pytest.raises(DataError):
        project(vectors)
