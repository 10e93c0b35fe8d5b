"""Measures, claims, tables and the page of an ablation, on trials made up here."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from pydantic import ValidationError
from test_report import Page

from ccp_ray.storage import open_store
from eval.ablation import (
    AblationData,
    Claim,
    Trial,
    VariantNote,
    claim_verdict,
    died_trial,
    difference,
    judge,
    over_seeds,
    problems_over_seeds,
    unconfirmed_claims,
)
from eval.ablation_measures import (
    pair_accuracies,
    problem_kinds,
    score_measures,
    training_curves,
    training_measures,
)
from eval.ablation_page import render_html, render_markdown, write_page
from eval.ablation_tables import accuracies, claims, health, judgements, named, reading_notes, result_sentence, summary
from eval.report_tables import MISSING

STEPS = ("raw", "shift", "scale", "rotate")
FULL = {0: 0.30, 1: 0.36, 2: 0.33}
BARE = {0: 0.20, 1: 0.25, 2: 0.24}  # below FULL by 0.10, 0.11, 0.09


def probe(std: float) -> dict[str, float]:
    return {"std": std, "effective_rank": 10 * std, "alignment": 0.5, "uniformity": -2.0}


def rows(final: float) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [{"step": 0, "probe": {"qaa": probe(0.2), "qab": probe(0.4)}}]
    for step in range(10, 201, 10):
        loss = 4.0 if step <= 180 else final
        row = {"step": step, "contrastive": loss, "chance": 4.0, "accuracy": step / 400, "staleness_gap": 0.1}
        found.append(row | {"loss_by_language": {"qaa": loss, "qab": loss}})
    found.append({"step": 200, "probe": {"qaa": probe(0.6), "qab": probe(0.8)}})
    return found


def trial(variant: str, seed: int, accuracy: float, scale: str = "small", **more: object) -> Trial:
    measures = {f"accuracy.{step}": accuracy + i / 100 for i, step in enumerate(STEPS)}
    measures |= {"own.rotate": accuracy, "context.raw": accuracy / 2} | training_measures(rows(2.0))
    given = {"measures": measures, "curves": training_curves(rows(2.0))} | more
    return Trial.model_validate({"scale": scale, "variant": variant, "seed": seed, **given})


def data(**changes: object) -> AblationData:
    trials = [trial("full", seed, value) for seed, value in FULL.items()]
    trials += [trial("bare", seed, value, problems=["collapse of qaa at step 50: x"]) for seed, value in BARE.items()]
    trials += [died_trial("small", "hot", seed, "the loss is nan at step 3", 1000) for seed in FULL]
    trials += [Trial(scale="small", variant="untrained", seed=s, measures={"accuracy.raw": 0.03}) for s in FULL]
    claim = {"source": "paper", "measures": ["accuracy.raw"]}
    shown = {
        "title": "Made up <here>",
        "created": "2030-01-02T03:04:05+00:00",
        "sentences": 1000,
        "seeds": list(FULL),
        "scales": {"small": "Small."},
        "variants": {
            "full": VariantNote(about="All.", family="", change=""),
            "bare": VariantNote(about="Less.", family="parts", change="bank.size=0"),
            "hot": VariantNote(about="Too hot.", family="parts", change="optimizer.lr=1"),
            "untrained": VariantNote(about="Before.", family="", change=""),
        },
        "claims": [
            Claim.model_validate(claim | {"text": "A | part helps.", "higher": "full", "lower": "bare"}),
            Claim.model_validate(claim | {"text": "Less is more.", "higher": "bare", "lower": "full"}),
            Claim.model_validate(
                claim
                | {"text": "Shift helps.", "higher": "full", "lower": "full", "measures": ["accuracy.shift"]}
                | {"lower_measure": "accuracy.raw"}
            ),
            Claim.model_validate(
                claim
                | {"text": "No leak.", "source": "ours", "higher": "full", "lower": "bare", "measures": ["leakage"]}
            ),
        ],
        "trials": trials,
        "config_yaml": "seeds: [0]\n",
        "environment": {"torch": "2"},
    }
    return AblationData.model_validate(shown | changes)


def test_scores_become_measures_and_pairs():
    score = {"macro": {"mean": 0.5, "forward": 0.4}, "pairs": {"a-b": {"mean": 0.5, "forward": 0.4}}}
    benchmarks = {
        "translations": {"variants": dict.fromkeys(STEPS, score), "own": {"variants": dict.fromkeys(STEPS, score)}},
        "context": {"variants": {step: {"macro": {"accuracy": 0.2, "chance": 0.01}} for step in STEPS}},
    }
    found = score_measures(benchmarks)
    assert set(found) == {f"{kind}.{step}" for kind in ("accuracy", "own", "context") for step in STEPS} | {
        "context.chance"
    }
    assert (found["accuracy.scale"], found["own.raw"], found["context.shift"]) == (0.5, 0.5, 0.2)
    assert pair_accuracies(benchmarks) == {step: {"a-b": 0.5} for step in (*STEPS, "own")}


def test_training_ends_are_means_of_the_last_tenth_of_the_rows():
    found = training_measures(rows(2.0))
    assert found["contrastive"] == 2.0  # the last 2 of 20 rows
    assert found["loss_share"] == 0.5
    assert found["group_accuracy"] == pytest.approx((190 + 200) / 2 / 400)
    assert found["spread"] == pytest.approx(0.7)
    assert found["lowest_spread"] == 0.6
    assert not {"step", "loss_by_language"} & found.keys()
    curves = training_curves(rows(2.0))
    assert curves["spread"] == [(0.0, pytest.approx(0.3)), (200.0, pytest.approx(0.7))]
    assert curves["loss_share"][0] == (10.0, 1.0)
    assert "leakage" not in curves


def test_a_probe_may_measure_more():
    row = {"step": 5, "probe": {"qaa": probe(0.2) | {"leakage": 0.1}, "qab": probe(0.4) | {"leakage": 0.3}}}
    assert training_measures([row])["leakage"] == pytest.approx(0.2)
    assert training_curves([row])["leakage"] == [(5.0, pytest.approx(0.2))]


def test_problems_are_counted_by_kind():
    said = [
        "collapse of qaa at step 50: spread 0.1",
        "collapse of qab at step 60: y",
        "staleness shortcut at step 9: z",
    ]
    assert problem_kinds(said) == ["collapse", "staleness shortcut"]
    assert problem_kinds(["something else"]) == ["something else"]
    found = data()
    assert problems_over_seeds(found.trials, "small", "bare") == {"collapse": (3, 3)}
    assert problems_over_seeds(found.trials, "small", "hot") == {"died": (3, 3)}


def test_means_and_deviations_are_over_seeds():
    found = over_seeds(data().trials, "small", "full", "accuracy.raw")
    assert found == (pytest.approx(np.mean(list(FULL.values()))), pytest.approx(np.std(list(FULL.values()), ddof=1)), 3)
    assert over_seeds(data().trials, "large", "full", "accuracy.raw") is None
    assert summary(data())["small"]["full"]["accuracy.raw"]["mean"] == pytest.approx(statistics.fmean(FULL.values()))


def test_differences_are_paired_by_seed_and_not_by_order():
    trials = data().trials
    found = difference(trials[::-1], "small", ("full", "accuracy.raw"), ("bare", "accuracy.raw"))
    gaps = [FULL[seed] - BARE[seed] for seed in FULL]
    assert found.mean == pytest.approx(np.mean(gaps))
    assert found.error == pytest.approx(np.std(gaps, ddof=1) / np.sqrt(3))
    alone = [t for t in trials if t.variant == "full" or t.seed == 0]
    assert difference(alone, "small", ("full", "accuracy.raw"), ("bare", "accuracy.raw")) is None


def test_verdicts_follow_from_the_trials():
    found = data()
    words = {claim.text: claim_verdict(claim, found.findings()) for claim in found.claims}
    assert words == {
        "A | part helps.": "confirmed",
        "Less is more.": "contradicted",
        "Shift helps.": "confirmed",
        "No leak.": "not measured",
    }
    swapped = {"full": "bare", "bare": "full"}
    turned = [t.model_copy(update={"variant": swapped.get(t.variant, t.variant)}) for t in found.trials]
    other = found.model_copy(update={"trials": turned})
    assert claim_verdict(found.claims[0], other.findings()) == "contradicted"


def test_a_claim_is_judged_at_every_scale():
    flat = [trial("full", seed, value, "large") for seed, value in FULL.items()]
    flat += [trial("bare", seed, FULL[seed] + gap, "large") for seed, gap in ((0, 0.1), (1, -0.1), (2, 0.0))]
    both = data(scales={"large": "Large.", "small": "Small."}, trials=[*data().trials, *flat])
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in claims(both).rows}
    assert shown["1. A | part helps."] == ["paper", "not shown", "confirmed", "confirmed"]
    assert result_sentence(both) == "4 claims over 3 seeds and 2 scales: 2 confirmed, 1 contradicted, 1 not measured."


def test_a_claim_that_is_not_confirmed_goes_to_another_scale_before_it_is_called_unconfirmed():
    def flat(scale: str) -> list[Trial]:
        gaps = {0: 0.1, 1: -0.1, 2: 0.0}
        bare = [trial("bare", seed, FULL[seed] - gap, scale) for seed, gap in gaps.items()]
        return bare + [trial("full", seed, value, scale) for seed, value in FULL.items()]

    claim, turned = data().claims[:2]
    assert unconfirmed_claims([claim, turned], data().trials, ["small"]) == [turned]
    once, twice = flat("small"), flat("small") + flat("large")
    assert claim_verdict(claim, judge([claim], once, ["small", "large"])) == "not shown"
    assert claim_verdict(claim, judge([claim], twice, ["small", "large"])) == "unconfirmed"
    shown = data().trials + flat("large")
    assert claim_verdict(claim, judge([claim], shown, ["small", "large"])) == "confirmed"
    assert unconfirmed_claims([claim], shown, ["small", "large"]) == []


def test_what_was_not_tried_at_a_scale_is_left_out_there():
    more = [trial(name, seed, value, "large") for name in ("full", "hot") for seed, value in FULL.items()]
    both = data(scales={"small": "Small.", "large": "Large."}, trials=[*data().trials, *more])
    assert [row[0].text for row in accuracies(both, "large").rows] == ["full", "hot"]
    assert list(summary(both)["large"]) == ["full", "hot"]
    assert [row[3].text for row in claims(both).rows][:2] == [MISSING, MISSING]  # bare was not tried there
    assert {found.scale for found in both.findings() if found.claim == both.claims[0]} == {"small"}
    assert render_html(both).count("<figure>") == 4 + 5 + 4 + 5
    alone = data(scales={"small": "Small.", "large": "Large."}, trials=[*data().trials, *more[:3]])
    assert render_html(alone).count("<figure>") == 4 + 5  # the first variant alone has nothing to be compared with


def test_a_run_that_died_counts_as_guessing():
    found = difference(data().trials, "small", ("full", "accuracy.rotate"), ("hot", "accuracy.rotate"))
    assert found.mean == pytest.approx(np.mean(list(FULL.values())) + 0.03 - 0.001)
    assert any("broke down" in note for note in reading_notes(data()))


def test_a_variant_cannot_be_higher_than_itself():
    with pytest.raises(ValidationError, match="cannot be higher than itself"):
        Claim(text="x", source="ours", higher="full", lower="full")


def test_the_tables_say_mean_and_deviation():
    table = accuracies(data(), "small")
    assert table.columns == ["variant", "raw", "+ shift", "+ scale", "+ rotate", "calibrated*", "context"]
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert cells["full"][:2] == ["33.0 ± 3.0", "34.0 ± 3.0"]
    assert cells["untrained"] == ["3.0 ± 0.0", *[MISSING] * 5]
    assert [[cell.text for cell in row] for row in named(data(), "small").rows] == [
        ["bare", "collapse 3/3", "collapse of qaa at step 50: x"],
        ["hot", "died 3/3", "the loss is nan at step 3"],
    ]
    ends = {row[0].text: row[1].text for row in health(data(), "small").rows}
    assert ends == {"full": "0.500 ± 0.000", "bare": "0.500 ± 0.000", "hot": MISSING, "untrained": MISSING}
    judged = [cell.text for cell in judgements(data()).rows[0]]
    assert judged[1:5] == ["full \N{MINUS SIGN} bare", "raw", "small", "+10.0 ± 0.6"]


def test_chance_verdicts_are_owned_up_to():
    text = " ".join(reading_notes(data()))
    assert "18 % of the cases" in text
    assert "1 of the 3 judgements" in text


def test_the_page_has_what_the_markdown_has_and_asks_for_nothing():
    html, markdown = render_html(data()), render_markdown(data())
    page = Page(html)
    assert page.sections == ["claims", "scale-small", "variants", "reading", "configuration", "environment"]
    assert set(page.anchors) <= set(page.sections)
    assert all(address.startswith("#") for address in page.addresses)
    assert "script" not in page.tags
    text = "".join(page.text)
    for words in ("33.0 ± 3.0", "contradicted", "bank.size=0", "died 3/3", result_sentence(data())):
        assert words in text
        assert words in markdown
    assert "Made up <here>" in text
    assert "Made up &lt;here&gt;" in markdown
    assert "A \\| part helps." in markdown
    assert html.count("<figure>") == 4 + 5  # effects, and the curves of one family: no leakage was measured


def test_one_seed_draws_no_effects_and_judges_nothing():
    lone = data(trials=[t for t in data().trials if t.seed == 0], seeds=[0])
    assert {row[-1].text for row in claims(lone).rows} == {"not measured"}
    assert "33" not in accuracies(lone, "small").rows[0][1].text
    assert accuracies(lone, "small").rows[0][1].text == "30.0"
    assert render_html(lone).count("<figure>") == 5


def test_the_same_data_gives_the_same_files(tmp_path):
    first, second = (write_page(data(), open_store(str(tmp_path / name))) for name in "ab")
    assert [record.sha256 for record in first] == [record.sha256 for record in second]
    assert [record.path for record in first] == ["ablation.html", "ablation.md"]


def test_the_data_survives_json():
    assert AblationData.model_validate_json(data().model_dump_json()) == data()
    assert json.loads(data().trials[0].model_dump_json())["curves"]["spread"][0][0] == 0.0
