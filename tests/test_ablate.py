"""ccp-ray ablate: runs side by side, one that dies and one that fails, continued with another seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import ccp
from small_recipe import RECIPE

from ccp_ray.artifact import (
    Artifact,
    Output,
    Request,
    find_artifact,
    open_artifact,
    open_output,
    verify_artifact,
)
from ccp_ray.config import build_config, merge
from ccp_ray.ledger import put_bytes
from eval.ablation import Trial
from jobs import ablation_runs
from jobs.ablation_config import AblationConfig, TrialPlan
from jobs.ablation_trial import TRIAL, read_trial

BASE = merge(
    {name: RECIPE[name] for name in ("languages", "benchmarks", "prepare", "pretrain", "embed", "evaluate")},
    {
        "languages": {"count": 2, "dev_sentences": 8},
        "pretrain": {"steps": 10, "resources": {"workers": 1, "max_failures": 0}},
    },
)
ABLATION = {
    "title": "A test",
    "scales": {"tiny": {"about": "Small."}},
    "chosen_scales": ["tiny"],
    "base": BASE,
    "variants": {
        "full": {"about": "All of it."},
        "hot": {"about": "It explodes.", "family": "faults", "change": {"optimizer": {"lr": 1e30}}},
        "lost": {"about": "It cannot start.", "change": {"languages": ["xx"]}},
    },
    "claims": [
        {"text": "Training helps.", "source": "ours", "higher": "full", "lower": "untrained"},
        {"text": "Lost is better.", "source": "ours", "higher": "lost", "lower": "full"},
    ],
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(ABLATION, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_death_is_a_result_a_failure_is_told_and_what_is_finished_is_kept(
    ray_local: None, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs"
    asked = ("ablate", "--config", recipe, "--output", output, "--json")

    failed = ccp(*asked, "--seeds", "0", "--variants", "hot,lost")
    assert failed.code == 1
    assert "1 of 3 runs failed (tiny/seed-0/lost: lost/encoder: languages: 'xx' is not in the corpus" in failed.err
    assert not list(output.glob("report-*"))
    kept = {name: open_artifact(str(output / f"tiny/seed-0/{name}/trial")) for name in ("hot", "untrained")}
    died = read_trial(kept["hot"])
    assert "not finite" in died.died or "nan" in died.died
    assert died.measures["accuracy.rotate"] == 1 / BASE["languages"]["test_sentences"]

    more = ("--seeds", "0,1", "--variants", "full")
    done = ccp(*asked, *more)
    assert done.code == 0, done.err
    for name, artifact in kept.items():
        assert open_artifact(artifact.uri) == artifact, f"{name} was made again"
    assert (done.json["runs"], done.json["died"]) == (4, [])
    assert set(done.json["verdicts"]) == {"Training helps."}
    report = open_artifact(done.json["artifact"]["uri"], "ablation")
    assert verify_artifact(report) == []
    results = json.loads(report.read("results.json"))
    trials = [Trial.model_validate(trial) for trial in results["trials"]]
    _check_trials(trials)
    table = results["table"]["tiny"]["full"]["accuracy.raw"]
    own = [trial.measures["accuracy.raw"] for trial in trials if trial.variant == "full"]
    assert (table["n"], table["mean"]) == (2, pytest.approx(sum(own) / 2))
    for page in ("ablation.html", "ablation.md"):
        assert "A test" in report.read(page).decode()

    def refuse(*_: object) -> None:
        raise AssertionError("everything is finished")

    monkeypatch.setattr(ablation_runs, "_run_all", refuse)
    assert ccp(*asked, *more).json == done.json
    changed = ccp(*asked, *more, "--set", "base.pretrain.steps=11")
    assert changed.code == 2
    assert "pretrain.steps: 10 -> 11" in changed.err


def _check_trials(trials: list[Trial]) -> None:
    by_name = {(trial.seed, trial.variant): trial for trial in trials}
    assert len(by_name) == 4
    for seed in (0, 1):
        full, before = by_name[seed, "full"], by_name[seed, "untrained"]
        assert set(full.pairs) == {"raw", "shift", "scale", "rotate", "own"}
        assert full.measures["accuracy.raw"] == pytest.approx(full.pairs["raw"]["qaa-qab"])
        assert {"context.raw", "spread", "staleness_gap", "contrastive"} <= set(full.measures)
        assert full.curves["loss_share"][-1][0] == 10
        assert before.curves == {}
        assert before.measures != {name: full.measures[name] for name in before.measures}
    assert by_name[0, "untrained"].measures != by_name[1, "untrained"].measures


def made_up_trial(plan: TrialPlan, output: str) -> Artifact:
    """A finished trial that measured an accuracy chosen here."""
    accuracy = {"full": 0.5, "lost": 0.4, "hot": 0.3, "untrained": 0.1}[plan.variant] + plan.seed / 100
    if (plan.scale, plan.variant) == ("other", "lost"):
        accuracy = 0.7 - plan.seed / 50
    measures = dict.fromkeys(("accuracy.raw", "accuracy.rotate"), accuracy)
    trial = Trial(scale=plan.scale, variant=plan.variant, seed=plan.seed, measures=measures)
    target = open_output(f"{output}/{plan.name}/trial", Request(kind="trial", config={"of": plan.name}))
    assert isinstance(target, Output)
    return target.finish([put_bytes(target.store, TRIAL, trial.model_dump_json().encode())], {"died": ""})


def test_only_what_is_not_confirmed_is_tried_at_the_next_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = {"scales": {"tiny": {"about": "Small."}, "other": {"about": "Else."}}, "chosen_scales": ["tiny", "other"]}
    config = build_config(AblationConfig, ABLATION | scales)
    asked: list[tuple[str, set[str]]] = []

    def made_up(plans: list[TrialPlan], output: str, config: AblationConfig) -> dict[str, Artifact]:
        asked.append((plans[0].scale, {plan.variant for plan in plans}))
        assert {plan.seed for plan in plans} == {0, 1, 2}
        return {plan.name: made_up_trial(plan, output) for plan in plans}

    monkeypatch.setattr(ablation_runs, "_run_scale", made_up)
    report = ablation_runs.ablate(config, str(tmp_path / "runs"))
    assert asked == [("tiny", {"full", "hot", "lost", "untrained"}), ("other", {"full", "lost", "untrained"})]
    assert report.summary["verdicts"] == {"Training helps.": "confirmed", "Lost is better.": "mixed"}
    assert set(json.loads(report.read("results.json"))["table"]) == {"tiny", "other"}

    asked.clear()
    claims = {"claims": ABLATION["claims"][:1]}
    sure = build_config(AblationConfig, ABLATION | scales | claims)
    report = ablation_runs.ablate(sure, str(tmp_path / "sure"))
    assert asked == [("tiny", {"full", "hot", "lost", "untrained"})]
    assert set(json.loads(report.read("results.json"))["table"]) == {"tiny"}


def test_a_plan_counts_and_touches_nothing(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "x"
    asked = ("ablate", "--config", recipe, "--output", output, "--plan", "--seeds", "3,4", "--json")
    told = ccp(*asked)
    assert told.code == 0, told.err
    assert (told.json["figures"]["runs"], told.json["figures"]["steps"]) == (2 * 4, 2 * 3 * 10)
    fewer = ccp(*asked, "--variants", "full", "--set", "resources.at_once=1").json["figures"]
    assert (fewer["runs"], fewer["steps"], fewer["at_once"]) == (4, 20, 1)
    assert not output.exists()
    assert find_artifact(str(output)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seeds", "1,x"), "--seeds: 'x' is not a whole number"),
        (("--seeds", "1,1"), "seeds: [1, 1] has one twice"),
        (("--variants", "fool"), "chosen_variants: unknown 'fool'; known: full, hot, lost"),
        (("--scales", "huge"), "chosen_scales: unknown 'huge'; known: tiny"),
        (
            ("--set", "variants.hot.change.optimizer.lrr=1"),
            "scales.tiny with variants.hot: pretrain.optimizer.lrr: unknown configuration key; did you mean 'lr'?",
        ),
        (("--set", "base.pretrain.monitor.action=stop"), "base.pretrain.monitor.action: expected warn"),
        (("--set", "base.benchmarks.tatoeba=x"), "base: expected generated languages"),
        (("--set", "split=dev", "--set", "base.languages.dev_sentences=0"), "split: dev needs"),
        (("--set", "variants.corpus.about=x"), "variants.corpus: this name is taken"),
        (("--set", "claims=[{text: t, source: ours, higher: full, lower: full}]"), "claims.0: 't': a variant cannot"),
        (("--set", "claims=[{text: t, source: ours, higher: full, lower: no}]"), "claims: unknown 'no'"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is_written(
    arguments: tuple[str, ...], words: str, recipe: Path, tmp_path: Path
) -> None:
    result = ccp("ablate", "--config", recipe, "--output", tmp_path / "x", *arguments)
    assert result.code == 2
    assert words in result.error
    assert not (tmp_path / "x").exists()
