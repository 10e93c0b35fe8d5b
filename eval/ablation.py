"""An ablation's numbers: trials in, a table with mean and deviation over seeds and judged claims out.

A *trial* is one variant trained with one seed at one scale. A *claim* says of which two sides the first is higher, by
which measures; its verdict is computed from the trials (`eval.paired`), never written down. A claim that is not
confirmed at one scale is tried at the next (`unconfirmed_claims`); only one that shows at none of two or more is called
unconfirmed. A trial that broke down in training has no scores: it counts with the accuracy of guessing, so that a
variant is not the better for failing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel
from eval.ablation_measures import problem_kinds
from eval.paired import Difference, Spread, Verdict, overall, paired_difference, spread, verdict

UNTRAINED = "untrained"
Point = Annotated[tuple[float, float], Field(strict=False)]


class Trial(StrictModel):
    """What one run measured (`eval.ablation_measures` names the measures)."""

    scale: str
    variant: str
    seed: int
    measures: dict[str, float] = Field(default_factory=dict)
    pairs: dict[str, dict[str, float]] = Field(default_factory=dict, description="accuracy by step and pair")
    curves: dict[str, list[Point]] = Field(default_factory=dict)
    problems: list[str] = Field(default_factory=list, description="as the monitor named them")
    died: str = Field(default="", description="the error that ended training")


class Claim(StrictModel):
    """`higher` is claimed to measure more than `lower`."""

    text: str
    source: Literal["paper", "ours"]
    higher: str = Field(description="variant")
    lower: str = Field(description="variant; the same one where two measures of it are compared")
    measures: list[str] = Field(default=["accuracy.raw", "accuracy.rotate"], min_length=1)
    lower_measure: str | None = Field(default=None, description="of the lower side, where it is another")

    @model_validator(mode="after")
    def _two_sides(self) -> Claim:
        if self.higher == self.lower and self.lower_measure is None:
            raise ValueError(f"{self.text!r}: a variant cannot be higher than itself; set lower_measure")
        return self


class Finding(NamedTuple):
    """A claim judged at one scale by one measure."""

    claim: Claim
    scale: str
    measure: str
    difference: Difference | None
    verdict: Verdict


class VariantNote(StrictModel):
    """What a variant is: for the page."""

    about: str
    family: str = Field(description="variants of a family share charts; empty: in all of them")
    change: str = Field(description="of the configuration, in one line")


class AblationData(StrictModel):
    """All of an ablation's page."""

    title: str
    created: str = ""
    split: Literal["test", "dev"] = "test"
    sentences: int = Field(description="translated sentences that are searched")
    seeds: list[int]
    scales: dict[str, str] = Field(description="name: what it is")
    variants: dict[str, VariantNote]
    claims: list[Claim] = Field(default_factory=list)
    trials: list[Trial]
    notes: list[str] = Field(default_factory=list, description="what else a reader must know")
    config_yaml: str = ""
    environment: dict[str, str] = Field(default_factory=dict)

    def findings(self) -> list[Finding]:
        """Every claim judged."""
        return judge(self.claims, self.trials, list(self.scales))


def tried(trials: Sequence[Trial], scale: str, variants: Iterable[str]) -> list[str]:
    """The variants that were run at a scale, in the order given."""
    have = {trial.variant for trial in trials if trial.scale == scale}
    return [name for name in variants if name in have]


def seed_values(trials: Sequence[Trial], scale: str, variant: str, measure: str) -> dict[int, float]:
    """The measure by seed, of the trials that have it."""
    chosen = [trial for trial in trials if (trial.scale, trial.variant) == (scale, variant)]
    return {trial.seed: trial.measures[measure] for trial in chosen if measure in trial.measures}


def over_seeds(trials: Sequence[Trial], scale: str, variant: str, measure: str) -> Spread | None:
    """Mean and deviation over seeds; None where no trial has the measure."""
    values = seed_values(trials, scale, variant, measure)
    return spread(list(values.values())) if values else None


def difference(
    trials: Sequence[Trial], scale: str, higher: tuple[str, str], lower: tuple[str, str]
) -> Difference | None:
    """Of two (variant, measure), paired by seed; None with fewer than two seeds in common."""
    left, right = (seed_values(trials, scale, variant, measure) for variant, measure in (higher, lower))
    return paired_difference([(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys())])


def judge(claims: Sequence[Claim], trials: Sequence[Trial], scales: Sequence[str]) -> list[Finding]:
    """Every claim by every measure of its own, at every scale where both of its sides were tried."""
    findings = []
    for claim in claims:
        sides = {claim.higher, claim.lower}
        for scale in scales:
            if len(tried(trials, scale, sides)) < len(sides):
                continue
            for measure in claim.measures:
                lower = (claim.lower, claim.lower_measure or measure)
                found = difference(trials, scale, (claim.higher, measure), lower)
                findings.append(Finding(claim, scale, measure, found, verdict(found)))
    return findings


def claim_verdict(claim: Claim, findings: Sequence[Finding]) -> str:
    """One word for a claim over all scales and measures."""
    own = [found for found in findings if found.claim == claim]
    word = overall([found.verdict for found in own])
    silent = {found.scale for found in own if found.verdict == "not shown"}
    return "unconfirmed" if word == "not shown" and len(silent) > 1 else word


def unconfirmed_claims(claims: Sequence[Claim], trials: Sequence[Trial], scales: Sequence[str]) -> list[Claim]:
    """Those that another scale has to decide: all but the confirmed ones."""
    findings = judge(claims, trials, scales)
    return [claim for claim in claims if claim_verdict(claim, findings) != "confirmed"]


def problems_over_seeds(trials: Sequence[Trial], scale: str, variant: str) -> dict[str, tuple[int, int]]:
    """{kind: (trials that had it, all trials)} of what the monitor named, and of `died`."""
    chosen = [trial for trial in trials if (trial.scale, trial.variant) == (scale, variant)]
    counts = Counter(kind for trial in chosen for kind in problem_kinds(trial.problems))
    counts.update("died" for trial in chosen if trial.died)
    return {kind: (count, len(chosen)) for kind, count in sorted(counts.items())}


def died_trial(scale: str, variant: str, seed: int, message: str, sentences: int) -> Trial:
    """A trial whose training broke down: the accuracy of guessing among `sentences`, whatever the calibration."""
    names = [f"{kind}.{step}" for kind in ("accuracy", "own") for step in ("raw", "shift", "scale", "rotate")]
    return Trial(scale=scale, variant=variant, seed=seed, measures=dict.fromkeys(names, 1 / sentences), died=message)
