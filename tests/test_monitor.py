"""The collapse monitor: measurements against scipy on spaces whose shape is known, and verdicts only when due."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist

from ccp_ray.errors import CcpError
from ccp_ray.monitor import Monitor, MonitorConfig, Probe, Space, measure

GOOD = {"staleness_gap": 0.02, "contrastive": 2.0, "chance": math.log(64)}


def gaussian(rows: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


def probe(std: float, leakage: float = 0.0) -> Probe:
    return Probe(std=std, effective_rank=10, alignment=0.5, uniformity=-2, leakage=leakage)


def test_measurements_are_scipys():
    centres, contexts = gaussian(40, 12) + 0.7, gaussian(40, 12, seed=1)
    units = [x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (centres, contexts)]
    both = np.concatenate(units)
    found = measure(centres, contexts)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(both.T, bias=True) * len(both)), 0))
    assert found.effective_rank == pytest.approx(math.exp(stats.entropy(singular)), rel=1e-6)
    assert found.std == pytest.approx(np.sqrt(np.diag(np.cov(both.T, bias=True))).mean() * math.sqrt(12))
    assert found.alignment == pytest.approx(np.mean(2 - 2 * np.einsum("pd,pd->p", *units)))
    assert found.uniformity == pytest.approx(math.log(np.exp(-2 * pdist(both, "sqeuclidean")).mean()), rel=1e-6)


def test_a_space_that_fills_the_sphere():
    found = measure(gaussian(1000, 32), gaussian(1000, 32, seed=1))
    assert found.std == pytest.approx(1, abs=0.02)
    assert found.effective_rank > 31
    assert found.alignment == pytest.approx(2, abs=0.05)  # unrelated unit vectors
    assert found.uniformity == pytest.approx(-4 + 8 / 32, abs=0.1)  # squared distance 2, its variance 4 / D


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_space_of_known_rank(rank):
    basis = np.linalg.qr(gaussian(32, rank))[0].T
    found = measure(gaussian(400, rank, 2) @ basis, gaussian(400, rank, 3) @ basis)
    assert found.effective_rank == pytest.approx(rank, rel=0.02)


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_space_that_is_one_point(noise):
    point = np.ones((50, 16), dtype=np.float32)
    found = measure(point + noise * gaussian(50, 16), point + noise * gaussian(50, 16, seed=1))
    assert found.std < 1e-5
    assert found.alignment == pytest.approx(0, abs=1e-6)
    assert found.uniformity == pytest.approx(0, abs=1e-6)
    assert np.isfinite(found.effective_rank)


def test_equal_pairs_are_aligned_and_length_does_not_matter():
    centres = gaussian(20, 8)
    assert measure(centres, 3 * centres).alignment == pytest.approx(0, abs=1e-12)
    one, other = measure(centres, gaussian(20, 8, 1)), measure(100 * centres, 0.01 * gaussian(20, 8, 1))
    for name in Space.model_fields:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)


def test_zero_vectors_are_measured():
    found = measure(np.zeros((4, 8), np.float32), np.zeros((4, 8), np.float32))
    assert (found.std, found.alignment) == (0, 0)
    assert np.isfinite([found.effective_rank, found.uniformity]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_one_clear_error(bad):
    centres = gaussian(4, 8)
    centres[2, 3] = bad
    with pytest.raises(CcpError, match="NaN or infinity"):
        measure(centres, gaussian(4, 8))


def test_a_healthy_run_has_no_problems():
    monitor = Monitor(MonitorConfig())
    for step, std in enumerate([0.8, 0.7, 0.9, 0.5, 0.3]):
        assert monitor.judge(step, {"de": probe(std), "en": probe(1.0)}, GOOD) == []


def test_the_first_probe_is_never_a_collapse():
    """An untrained encoder gives nearly the same vector for everything."""
    monitor = Monitor(MonitorConfig())
    assert monitor.judge(0, {"en": probe(0.01)}, None) == []
    assert monitor.judge(100, {"en": probe(0.06)}, GOOD) == []
    assert len(monitor.judge(200, {"en": probe(0.04)}, GOOD)) == 1


@pytest.mark.parametrize(("first", "limit"), [(1.0, 0.25), (0.4, 0.1), (0.1, 0.05)])
def test_collapse_is_named_by_language_with_its_figures(first, limit):
    monitor = Monitor(MonitorConfig())
    monitor.judge(0, {"de": probe(first), "en": probe(first)}, None)
    assert monitor.judge(100, {"de": probe(limit + 0.001), "en": probe(first)}, GOOD) == []
    (problem,) = monitor.judge(200, {"de": probe(limit - 0.001), "en": probe(first)}, GOOD)
    assert problem == f"collapse of de at step 200: spread {limit - 0.001:.3f} is below {limit:.3f}"


def test_a_space_that_grew_and_fell_back_has_collapsed():
    """An untrained encoder's spread is small: judged by it alone, a trained one could lose nearly everything."""
    monitor = Monitor(MonitorConfig())
    stds = [0.1, 0.6, 0.8, 0.21, 0.19]
    found = [monitor.judge(100 * i, {"en": probe(std)}, GOOD) for i, std in enumerate(stds)]
    assert [len(problems) for problems in found] == [0, 0, 0, 0, 1]
    assert "spread 0.190 is below 0.200" in found[-1][0]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("staleness_gap", 0.26, "staleness shortcut at step 300: gap 0.26 is above 0.25"),
        ("staleness_gap", 0.25, None),
        ("staleness_gap", -0.9, None),
        ("contrastive", 1.51 * GOOD["chance"], "divergence at step 300: loss 6.28 where guessing has 4.16"),
        ("contrastive", 1.49 * GOOD["chance"], None),
        ("contrastive", 0.0, None),
    ],
)
def test_training_metrics_are_judged_by_their_limits(name, value, expected):
    found = Monitor(MonitorConfig()).judge(300, {"en": probe(1.0)}, GOOD | {name: value})
    assert found == ([expected] if expected else [])


def test_all_that_is_wrong_is_named_at_once():
    monitor = Monitor(MonitorConfig())
    monitor.judge(0, {"de": probe(1.0), "en": probe(1.0)}, None)
    bad = {"staleness_gap": 1.0, "contrastive": 100.0, "chance": 4.0}
    found = monitor.judge(10, {"de": probe(0.0, leakage=0.1), "en": probe(0.1)}, bad)
    assert [problem.split(" at ")[0] for problem in found] == [
        "collapse of de", "collapse of en", "leakage of de", "staleness shortcut", "divergence",
    ]  # fmt: skip


def test_leakage_is_named_by_language_once_there_are_running_statistics():
    monitor, leaky = Monitor(MonitorConfig()), {"de": probe(1.0, leakage=0.3), "en": probe(1.0, leakage=0.05)}
    assert monitor.judge(0, leaky, None) == []
    assert monitor.judge(100, leaky, GOOD) == [
        "leakage of de at step 100: batch statistics alone are worth 0.30 nats, above 0.05"
    ]
    assert Monitor(MonitorConfig(leak=0.31)).judge(100, leaky, GOOD) == []


def test_an_encoder_that_starts_narrow_has_not_collapsed():
    monitor = Monitor(MonitorConfig())
    assert [monitor.judge(step, {"en": probe(std)}, None) for step, std in ((0, 0.01), (10, 0.009))] == [[], []]
    assert monitor.judge(20, {"en": probe(0.002)}, None) == ["collapse of en at step 20: spread 0.002 is below 0.003"]


def test_limits_are_configuration():
    strict = MonitorConfig(collapsed_std=0.5, collapsed_share=0, stale_gap=0.01, diverged_loss=1.01)
    monitor = Monitor(strict)
    assert monitor.judge(0, {"en": probe(0.51)}, None) == []
    found = monitor.judge(10, {"en": probe(0.49)}, GOOD | {"contrastive": 4.3})
    assert len(found) == 3
