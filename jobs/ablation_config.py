"""Configuration of an ablation: a pipeline's recipe, what each variant changes in its pretraining, and the claims.

A trial is configured by the base, changed by the scale, then by the variant, then by the seed (of languages and of
pretraining). It is checked as a pipeline's recipe is: a mistyped key of a variant that is to run is named before any
run starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from ccp_ray.config import StrictModel, build_config, merge
from ccp_ray.errors import UsageError
from ccp_ray.languages import LanguagesConfig, TranslatedSplit
from eval.ablation import UNTRAINED, Claim
from jobs.pipeline import PipelineConfig

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]  # it becomes a folder's name
_TAKEN = (UNTRAINED, "documents", "corpus")  # folders beside those of the variants


class Variant(StrictModel):
    """One setting under test."""

    about: str = Field(description="what it is, in a sentence")
    family: str = Field(default="", description="variants of a family share charts; empty: in all of them")
    change: dict[str, Any] = Field(default_factory=dict, description="keys of pretrain")


class ScaleConfig(StrictModel):
    """One size of the experiment."""

    about: str
    change: dict[str, Any] = Field(default_factory=dict, description="keys of base")


class AblationResources(StrictModel):
    """How it runs; changing this continues the same work."""

    at_once: int | None = Field(default=None, ge=1, description="runs side by side; None: as many as there are CPUs")


class AblationConfig(StrictModel):
    """Which runs are made and what is claimed of them."""

    title: str
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    scales: dict[Name, ScaleConfig] = Field(min_length=1)
    chosen_scales: list[str] = Field(min_length=1, description="the later ones try what is not confirmed by then")
    variants: dict[Name, Variant] = Field(min_length=1, description="the others are compared with the first")
    chosen_variants: list[str] | None = Field(default=None, min_length=1, description="those to run; None: all")
    split: TranslatedSplit = Field(default="test", description="dev: to choose settings by; test: to report")
    base: PipelineConfig
    claims: list[Claim] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="what else a reader of the page must know")
    resources: AblationResources = AblationResources()

    @model_validator(mode="after")
    def _consistent(self) -> AblationConfig:
        _known("chosen_scales", self.chosen_scales, list(self.scales))
        _known("chosen_variants", self.chosen_variants or [], list(self.variants))
        sides = [side for claim in self.claims for side in (claim.higher, claim.lower)]
        _known("claims", sides, [*self.variants, UNTRAINED])
        taken = next((name for name in self.variants if name in _TAKEN), None)
        if taken:
            raise ValueError(f"variants.{taken}: this name is taken; choose another")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} has one twice")
        return self

    @model_validator(mode="after")
    def _has_translations(self) -> AblationConfig:
        languages, benchmarks = self.base.languages, self.base.benchmarks
        if languages is None or "translations" not in benchmarks or any(benchmarks.values()):
            raise ValueError("base: expected generated languages, and benchmarks translations: null, context: null")
        if self.split == "dev" and not languages.dev_sentences:
            raise ValueError("split: dev needs base.languages.dev_sentences")
        return self

    def chosen(self) -> list[str]:
        """The variants that run, in the recipe's order; the untrained encoder last."""
        return [name for name in self.variants if name in (self.chosen_variants or self.variants)] + [UNTRAINED]

    def judged(self) -> list[Claim]:
        """The claims whose variants run."""
        return [claim for claim in self.claims if {claim.higher, claim.lower} <= set(self.chosen())]

    def needed(self, claims: Sequence[Claim]) -> list[str]:
        """The chosen variants that these claims are about, and what all are compared with."""
        sides = {side for claim in claims for side in (claim.higher, claim.lower)}
        reference = {self.chosen()[0], UNTRAINED}
        return [name for name in self.chosen() if name in sides | reference]


class TrialPlan(NamedTuple):
    """One run: its name, and its configuration with every change applied."""

    scale: str
    seed: int
    variant: str
    split: TranslatedSplit
    config: PipelineConfig

    @property
    def group(self) -> str:
        """The folder, below the output, of what all variants of a seed share."""
        return f"{self.scale}/seed-{self.seed}"

    @property
    def name(self) -> str:
        return f"{self.group}/{self.variant}"

    @property
    def sentences(self) -> int:
        """Translated sentences that are searched, in each language."""
        languages = self.config.languages or LanguagesConfig()
        return languages.test_sentences if self.split == "test" else languages.dev_sentences

    def data(self, output: str) -> dict[str, str]:
        """Where the data of each benchmark lies."""
        folder = "translations" if self.split == "test" else "dev_translations"
        group = f"{output}/{self.group}"
        places = {"translations": f"{group}/documents/{folder}", "context": f"{group}/corpus"}
        return {name: places[name] for name in self.config.benchmarks}


def plan_trials(config: AblationConfig) -> Iterator[TrialPlan]:
    """Every run, if no claim were confirmed: all scales. Raises UsageError naming what does not fit together."""
    for scale in config.chosen_scales:
        yield from plan_scale(config, scale, config.chosen())


def plan_scale(config: AblationConfig, scale: str, variants: Sequence[str]) -> Iterator[TrialPlan]:
    """A scale's runs, seed by seed. Raises UsageError naming the scale or variant whose change does not fit."""
    for seed in config.seeds:
        for variant in variants:
            yield TrialPlan(scale, seed, variant, config.split, trial_config(config, scale, variant, seed))


def trial_config(config: AblationConfig, scale: str, variant: str, seed: int) -> PipelineConfig:
    """The base with the changes of scale, variant and seed."""
    change = {} if variant == UNTRAINED else config.variants[variant].change
    values = merge(config.base.model_dump(exclude_unset=True), config.scales[scale].change)
    values = merge(values, {"pretrain": change})
    values = merge(values, {"languages": {"seed": seed}, "pretrain": {"seed": seed}})
    try:
        built = build_config(PipelineConfig, values)
    except UsageError as error:
        raise UsageError(f"scales.{scale} with variants.{variant}: {error}") from None
    if built.pretrain.monitor.action != "warn":
        raise UsageError("base.pretrain.monitor.action: expected warn: in an ablation a collapse is a result")
    return built


def change_text(change: dict[str, Any], prefix: str = "") -> str:
    """A change as `bank.size=0, mlm.weight=0.0`."""
    parts = []
    for key, value in change.items():
        if isinstance(value, dict):
            parts.append(change_text(value, f"{prefix}{key}."))
        else:
            parts.append(f"{prefix}{key}={'null' if value is None else str(value).lower()}")
    return ", ".join(parts)


def _known(key: str, names: list[str], known: list[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{key}: unknown {unknown[0]!r}; known: {', '.join(known)}")
