"""Every recipe loads strictly, and the paper's recipes hold the paper's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccp_ray.config import load_config
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.pretrain_job import plan_workers
from ccp_ray.training_job import plan_workers as plan_training
from eval.ablation import UNTRAINED
from eval.evaluate import EvaluateConfig
from eval.tatoeba import AVERAGES
from jobs.ablation_config import AblationConfig, trial_config
from jobs.pipeline import PipelineConfig, recipe_file, recipe_names

FOLDER = Path(__file__).resolve().parent.parent / "jobs" / "recipes"
FINETUNING = sorted(path.name for path in FOLDER.glob("finetune_*.yaml"))
EVALUATION = sorted(path.name for path in FOLDER.glob("evaluate_*.yaml"))
RECIPES = sorted({path.name for path in FOLDER.glob("*.yaml")} - {"ablation.yaml", *FINETUNING, *EVALUATION})
ABLATION = load_config(AblationConfig, [str(FOLDER / "ablation.yaml")])


def load(name: str) -> PipelineConfig:
    return load_config(PipelineConfig, [str(FOLDER / name)], ["data=somewhere"])


@pytest.mark.parametrize("name", RECIPES)
def test_loads(name: str) -> None:
    recipe = load(name)
    assert all("{" not in recipe.path(text) for text in recipe.documents)


def test_a_recipe_is_known_by_its_bare_name_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(PipelineConfig, [recipe_file("quickstart")]) == load("quickstart.yaml").model_copy(
        update={"data": None}
    )
    assert recipe_file("mine.yaml") == "mine.yaml"


def test_the_four_recipes_are_there() -> None:
    assert set(RECIPES) >= {"quickstart.yaml", "novels_cpu.yaml", "xlmr_base_1xh200.yaml", "xlmr_base_8xh100.yaml"}


@pytest.mark.parametrize(("name", "gpus"), [("xlmr_base_1xh200.yaml", 1), ("xlmr_base_8xh100.yaml", 8)])
def test_the_papers_recipes_have_the_settings_of_its_kin(name: str, gpus: int) -> None:
    config = load(name).pretrain
    assert config.groups_per_step * config.pairs_per_group == 2048
    assert (config.steps, config.temperature, config.radius, config.max_tokens) == (200_000, 0.1, 5, 64)
    assert (config.optimizer.lr, config.optimizer.warmup_steps, config.optimizer.betas) == (4e-5, 10_000, (0.9, 0.98))
    assert (config.language_exponent, config.optimizer.weight_decay, config.optimizer.eps) == (0.3, 0.01, 1e-6)
    assert plan_workers(config, cpus=64, gpus=gpus) == (gpus, True)


@pytest.mark.parametrize(
    ("name", "rate", "epochs"),
    [("finetune_nq.yaml", 1e-5, 20), ("finetune_mrtydi.yaml", 1e-5, 40), ("finetune_xor.yaml", 2e-5, 40)],
)
def test_fine_tuning_has_the_settings_of_the_authors_and_their_kin(name: str, rate: float, epochs: int) -> None:
    config = load_config(FinetuneConfig, [str(FOLDER / name)])
    assert (config.optimizer.lr, config.optimizer.warmup_steps, config.epochs) == (rate, 1237, epochs)
    assert (config.groups_per_step, config.questions_per_group, config.hard_negatives) == (8, 6, 1)
    assert (config.question_tokens, config.passage_tokens, config.optimizer.clip, config.seed) == (256, 256, 2.0, 42)
    assert (config.similarity, config.temperature, config.tied, config.best) == ("dot", 1.0, False, "loss")
    assert plan_training(config, cpus=64, gpus=8) == (8, True)
    assert set(FINETUNING) == {"finetune_nq.yaml", "finetune_mrtydi.yaml", "finetune_xor.yaml"}


@pytest.mark.parametrize("name", ["finetune_mrtydi.yaml", "finetune_xor.yaml"])
def test_supervised_fine_tuning_is_the_zero_shot_run_but_for_what_its_recipe_names(name: str) -> None:
    own = {"encoder", "passage_encoder", "train", "dev_data", "epochs", "optimizer", "dev", "resources"}
    supervised, zero_shot = (load_config(FinetuneConfig, [str(FOLDER / each)]) for each in (name, "finetune_nq.yaml"))
    assert supervised.model_dump(exclude=own) == zero_shot.model_dump(exclude=own)


def test_one_recipe_a_table() -> None:
    tables = {name: load_config(EvaluateConfig, [str(FOLDER / name)]) for name in EVALUATION}
    names = ("tatoeba", "tatoeba_112", "xquad_r", "mrtydi", "xor")
    assert set(tables) == {f"evaluate_{name}.yaml" for name in names}
    tatoeba = tables["evaluate_tatoeba.yaml"].tatoeba
    assert set(tatoeba.languages or ()) == AVERAGES["36"]
    assert (tatoeba.pairs, tatoeba.margin, tatoeba.neighbours) == ("all", True, 4)
    every = tables["evaluate_tatoeba_112.yaml"]
    assert every.tatoeba == tatoeba.model_copy(update={"languages": None, "pairs": None})
    assert every.embed == tables["evaluate_tatoeba.yaml"].embed
    assert tables["evaluate_xquad_r.yaml"].xquad_r.languages is None
    assert tables["evaluate_mrtydi.yaml"].mrtydi.split == "test"
    assert tables["evaluate_xor.yaml"].xor_retrieve.split == "dev"
    assert not set(recipe_names()) & {Path(name).stem for name in EVALUATION}
    docs = (FOLDER.parent.parent / "docs" / "benchmarks.md").read_text()
    assert all(f"--config jobs/recipes/{name}" in docs for name in EVALUATION)


@pytest.mark.parametrize("name", ["mrtydi", "xor"])
def test_fine_tuned_encoders_are_evaluated_as_they_were_trained(name: str) -> None:
    evaluated = load_config(EvaluateConfig, [str(FOLDER / f"evaluate_{name}.yaml")])
    trained = load_config(FinetuneConfig, [str(FOLDER / f"finetune_{name}.yaml")])
    assert evaluated.similarity == trained.similarity
    assert (evaluated.questions.max_tokens, evaluated.passages.max_tokens) == (
        trained.question_tokens,
        trained.passage_tokens,
    )


def test_both_of_the_papers_recipes_make_the_same_encoder() -> None:
    one, eight = (
        load(f"xlmr_base_{name}.yaml").pretrain.model_dump(exclude={"resources"}) for name in ("1xh200", "8xh100")
    )
    assert one == eight


def test_a_recipe_that_needs_data_says_so() -> None:
    recipe = load_config(PipelineConfig, [str(FOLDER / "novels_cpu.yaml")])
    with pytest.raises(UsageError, match="--set data=FOLDER"):
        recipe.path(recipe.documents[0])


def test_a_scale_of_the_ablation_is_the_quickstart() -> None:
    """But for what decides no result, the monitor's choice of words, sentences to choose settings by, and the scale."""
    quickstart = load("quickstart.yaml")
    base = trial_config(ABLATION, "quickstart", "full", 0)
    same = {"resources": True, "monitor": True}
    assert base.pretrain.model_dump(exclude=same) == quickstart.pretrain.model_dump(exclude=same)
    assert base.languages is not None
    assert base.languages.model_copy(update={"dev_sentences": 0}) == quickstart.languages
    assert base.prepare == quickstart.prepare
    assert base.calibrate == quickstart.calibrate.model_copy(update={"scale": "unit"})
    assert base.evaluate.context == quickstart.evaluate.context


@pytest.mark.parametrize("variant", [name for name in ABLATION.variants if name != "full"])
def test_every_variant_of_the_ablation_differs_from_full_at_every_scale(variant: str) -> None:
    for scale in ABLATION.scales:
        changed, full = (trial_config(ABLATION, scale, name, 3) for name in (variant, "full"))
        assert changed.pretrain != full.pretrain
        assert changed.model_dump(exclude={"pretrain"}) == full.model_dump(exclude={"pretrain"})
        assert changed.pretrain.seed == 3
        assert changed.languages is not None
        assert changed.languages.seed == 3
        assert plan_workers(changed.pretrain, cpus=2, gpus=0) == (1, False)


def test_every_variant_of_the_ablation_is_in_a_claim_and_is_said_to_be_something() -> None:
    sides = {side for claim in ABLATION.claims for side in (claim.higher, claim.lower)}
    assert sides == {*ABLATION.variants, UNTRAINED}
    assert len({claim.text for claim in ABLATION.claims}) == len(ABLATION.claims)
    assert all(variant.about for variant in ABLATION.variants.values())
    assert len(ABLATION.seeds) >= 3
    assert ABLATION.split == "test"


def test_the_docs_page_is_of_this_ablation() -> None:
    """A recipe that was changed since needs another run, and its page."""
    page = (FOLDER.parent.parent / "docs" / "ablation.md").read_text().replace("\\", "")
    assert all(f"| {name} | {variant.about} |" in page for name, variant in ABLATION.variants.items())
    assert all(f". {claim.text} | {claim.source} |" in page for claim in ABLATION.claims)
    assert all(scale in page for scale in ABLATION.chosen_scales)
    assert len(ABLATION.seeds) >= 3
    assert f"over {len(ABLATION.seeds)} seeds" in page
