"""One line of numbers for each kind of score."""

from __future__ import annotations

from eval.headline import headline


def ways(mean: float) -> dict[str, float]:
    return {"forward": mean - 0.1, "backward": mean + 0.1, "mean": mean}


def test_a_plain_score_is_its_macro() -> None:
    assert headline({"macro": {"map": 0.5}, "languages": {"de": {"map": 0.5}}}, {}) == {"map": 0.5}


def test_averages_margin_and_joined_pairs_are_named() -> None:
    averages = {"14": ways(0.3), "36": ways(0.4), "112": ways(0.5)}
    pairs = dict.fromkeys(map(str, range(40)), ways(0.5))
    inner = {"macro": ways(0.6), "pairs": pairs, "averages": averages, "joined": {"macro": ways(0.7), "pairs": {}}}
    score = {**inner, "margin": {"macro": ways(0.8), "pairs": pairs, "averages": averages}}
    told = {
        "14": {"languages": 14, "complete": True, "missing": []},
        "36": {"languages": 35, "complete": False, "missing": ["tr"]},
        "112": {"languages": 40, "complete": False, "missing": []},
    }
    assert headline(score, {"averages": told}) == {
        **ways(0.6),
        "mean_14": 0.3,
        "mean_35_of_36": 0.4,
        "mean_joined": 0.7,
        "margin_mean": 0.8,
        "margin_mean_14": 0.3,
        "margin_mean_35_of_36": 0.4,
    }
