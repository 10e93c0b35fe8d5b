"""ccp-ray pipeline --config RECIPE --output URI: raw text in, evaluated and calibrated embeddings out.

    documents ─► corpus ─► encoder ─► embeddings ─► calibration
                    │         │            └──────────┴──► index
                    │         ├─► evaluation ─► report
                    │         └─► curve (benchmarks over training; where it is asked for)
                    └─► baseline (the encoder before training: embeddings, calibration, evaluation)

Every stage is an artifact below the output, made by the same function as the verb of its name. Run again, the
pipeline skips what is finished and continues what is not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import Field, model_validator

from ccp_ray.artifact import Artifact, find_artifact
from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.calibration_job import calibrate
from ccp_ray.config import StrictModel, load_config
from ccp_ray.documents import find_documents
from ccp_ray.embed import embed
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.errors import UsageError
from ccp_ray.generate import generate
from ccp_ray.index import IndexConfig, index
from ccp_ray.languages import LanguagesConfig
from ccp_ray.log_fields import log_fields
from ccp_ray.prepare import PrepareConfig, prepare
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.pretrain_job import initial_encoder, pretrain, starting_source
from ccp_ray.progress import say
from ccp_ray.session import machine_cpus
from ccp_ray.storage import absolute_uri
from eval.curve import CurveConfig, curve
from eval.evaluate import BENCHMARKS, EvaluateConfig, evaluate
from jobs.command import Address, AsJson, ConfigFiles, Output, Overrides, PlanOnly, main, reported, run, show_plan
from jobs.generate import plan_generate
from jobs.memory import EncoderShape
from jobs.pipeline_curve import PipelineCurve, background_curve
from jobs.pipeline_report import Finished, report
from jobs.pipeline_stages import planned_stages, write_stages
from jobs.plan import Plan, architecture_shape, duration, prepare_plan, pretrain_plan, source_shape
from jobs.pretrain import planned_workers
from jobs.usage import PeakMemory

RECIPES = Path(__file__).parent / "recipes"
_OTHER_VERBS = ("ablation", "finetune", "evaluate")  # first words of recipes that are no pipeline


class PipelineConfig(StrictModel):
    """A recipe: where the text comes from, and the configuration of each stage."""

    title: str = "Contrastive context prediction"
    data: str | None = Field(default=None, description="folder that {data} stands for in the paths below")
    documents: list[str] = Field(default_factory=list, description="files, folders or globs")
    languages: LanguagesConfig | None = Field(default=None, description="generate documents instead")
    benchmarks: dict[str, str | None] = Field(
        default={"context": None}, description="name: its data; null: what the pipeline made"
    )
    baseline: bool = Field(default=True, description="also evaluate the encoder before training")
    curve: PipelineCurve | None = Field(default=None, description="benchmarks over training, in the background")
    prepare: PrepareConfig = PrepareConfig()
    pretrain: PretrainConfig = PretrainConfig()
    embed: EmbedConfig = EmbedConfig()
    calibrate: CalibrationConfig = CalibrationConfig()
    index: IndexConfig = IndexConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> PipelineConfig:
        if bool(self.documents) == (self.languages is not None):
            raise ValueError("say where the text comes from: either documents or languages (generated)")
        unknown = [name for name in self.benchmarks if name not in BENCHMARKS]
        if unknown:
            raise ValueError(f"benchmarks: unknown {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
        self._check_curve()
        return self

    def _check_curve(self) -> None:
        if self.curve is None:
            return
        strange = [name for name in self.curve.benchmarks if name not in self.benchmarks]
        if strange:
            raise ValueError(f"curve.benchmarks: {strange[0]!r} is none of benchmarks ({', '.join(self.benchmarks)})")
        kept = self.pretrain.resources.checkpoint_keep_every
        if kept is None or self.curve.every % kept:
            raise ValueError(
                f"curve.every={self.curve.every} needs checkpoints that stay: set "
                f"pretrain.resources.checkpoint_keep_every={self.curve.every}, and checkpoint_every to a divisor of it"
            )

    def path(self, text: str) -> str:
        """A path of the recipe with {data} filled in."""
        if "{data}" in text and self.data is None:
            raise UsageError(f"{text}: set the folder of the data with --set data=FOLDER")
        return text.replace("{data}", self.data or "")


class Stages:
    """Runs stages below the output and keeps what the report tells about them."""

    def __init__(self, output: str) -> None:
        self.output = absolute_uri(output)
        self.finished: list[Finished] = []

    def run(self, name: str, work: Callable[[str], Artifact]) -> Artifact:
        started = time.monotonic()
        place = f"{self.output}/{name}"
        with PeakMemory() as peak, _named(name), log_fields(run=place, stage=name):
            skipped = find_artifact(place) is not None
            artifact = work(place)
        seconds = time.monotonic() - started
        say(f"{name}: {artifact.kind} {artifact.fingerprint[:12]} ({seconds:.1f} s)")
        self.finished.append(Finished(name, artifact, seconds, None if skipped else peak.bytes))
        return artifact


def pipeline(config: PipelineConfig, output: str) -> Artifact:
    """Run every stage that is not finished. Returns the report's artifact."""
    stages = Stages(output)
    write_stages(stages.output, planned_stages(config))
    run_stages(config, stages)
    return report(config.title, stages.finished, config, f"{stages.output}/report")


def run_stages(config: PipelineConfig, stages: Stages) -> None:
    """Everything but the report."""
    corpus, data = run_corpus(config, stages)
    if config.baseline:
        _evaluated(stages, "baseline/", run_untrained(stages, "baseline/", corpus, config), corpus, data, config)
    encoder = run_training(config, stages, corpus, data)
    _evaluated(stages, "", encoder.uri, corpus, data, config)
    made = {item.name: item.artifact for item in stages.finished}
    stages.run(
        "index", lambda uri: index(made["embeddings"].uri, uri, config.index, calibration=made["calibration"].uri)
    )


def run_training(config: PipelineConfig, stages: Stages, corpus: Artifact, data: dict[str, str]) -> Artifact:
    """The encoder; and, where it is asked for, the curve of benchmarks over its training."""

    def train(uri: str) -> Artifact:
        return pretrain(corpus.uri, uri, config.pretrain)

    if config.curve is None:
        return stages.run("encoder", train)
    chosen = {name: data[name] for name in config.curve.benchmarks}
    settings = CurveConfig(every=config.curve.every, evaluate=config.evaluate)
    with background_curve(f"{stages.output}/encoder", chosen, f"{stages.output}/curve", settings):
        encoder = stages.run("encoder", train)
    stages.run("curve", lambda uri: curve(encoder.uri, list(chosen), chosen, uri, settings))
    return encoder


def run_corpus(config: PipelineConfig, stages: Stages) -> tuple[Artifact, dict[str, str]]:
    """Documents (where they are generated) and corpus; and where the data of each benchmark lies."""
    documents = [config.path(text) for text in config.documents]
    benchmarks = {name: config.path(place) if place else None for name, place in config.benchmarks.items()}
    if config.languages is not None:
        languages = config.languages
        documents = [stages.run("documents", lambda uri: generate(uri, languages)).uri]
    corpus = stages.run("corpus", lambda uri: prepare(documents, uri, config.prepare))
    return corpus, {name: place or _made(name, corpus, documents) for name, place in benchmarks.items()}


def _evaluated(
    stages: Stages, prefix: str, encoder: str, corpus: Artifact, data: dict[str, str], config: PipelineConfig
) -> None:
    """Embeddings of the corpus, their calibration and the evaluation of one encoder."""
    vectors = stages.run(f"{prefix}embeddings", lambda uri: embed(encoder, corpus.uri, uri, config.embed))
    fitted = stages.run(f"{prefix}calibration", lambda uri: calibrate(vectors.uri, uri, config.calibrate))
    stages.run(f"{prefix}evaluation", lambda uri: evaluate(encoder, list(data), data, uri, fitted.uri, config.evaluate))


def run_untrained(stages: Stages, prefix: str, corpus: Artifact, config: PipelineConfig) -> str:
    """The encoder that training starts from."""
    source = starting_source(corpus, config.pretrain)
    if source:
        return source
    return stages.run(f"{prefix}encoder", lambda uri: initial_encoder(corpus.uri, uri, config.pretrain)).uri


def _made(benchmark: str, corpus: Artifact, documents: list[str]) -> str:
    """The data of a benchmark that the pipeline makes itself."""
    if benchmark == "context":
        return corpus.uri
    if benchmark == "translations":
        return f"{documents[0]}/translations"
    raise UsageError(f"benchmarks.{benchmark}: say where its data lies")


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Names the stage in the error that ends it."""
    try:
        yield
    except BaseException as error:
        error.args = (f"{stage}: {error.args[0]}", *error.args[1:]) if error.args else (stage,)
        raise


def pipeline_command(
    output: Output,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    address: Address = None,
    plan: PlanOnly = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole recipe: prepare, pretrain, embed, calibrate, index, evaluate, report."""
    with reported():
        if not config:
            raise UsageError(f"--config: a pipeline needs a recipe: a YAML file, or one of {', '.join(recipe_names())}")
        recipe = load_config(PipelineConfig, [*map(recipe_file, config)], overrides or ())
    if plan:
        show_plan(lambda: plan_pipeline(recipe), as_json)
    else:
        run(lambda: pipeline(recipe, output), output=output, address=address, as_json=as_json)


def recipe_names() -> list[str]:
    """The pipeline's recipes that are installed with this program."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem.partition("_")[0] not in _OTHER_VERBS)


def recipe_file(name: str) -> str:
    """A recipe of this program by its bare name (`quickstart`), from any folder; else `name` itself, a path or URI."""
    return str(RECIPES / f"{name}.yaml") if name in recipe_names() else name


def plan_pipeline(config: PipelineConfig) -> Plan:
    """Reading and training, which take nearly all the time; the other stages depend on what prepare finds."""
    plans = []
    if config.languages is not None:
        plans.append(plan_generate(config.languages))
        size, count = int(plans[0].figures["bytes"]), config.languages.count
    else:
        files = find_documents([config.path(text) for text in config.documents])
        size, count = sum(file.bytes for file in files), len(files)
    plans.append(prepare_plan(count, size, machine_cpus()))
    languages = config.languages.count if config.languages else len(config.pretrain.languages or [""] * count)
    plans.append(pretrain_plan(config.pretrain, _shape(config), languages, *planned_workers(config.pretrain)))
    lines = [(f"{plan.stage}: {name}", value) for plan in plans for name, value in plan.lines]
    figures = {f"{plan.stage}.{name}": value for plan in plans for name, value in plan.figures.items()}
    total = sum(plan.figures["seconds"] for plan in plans)
    return Plan(
        stage="pipeline", lines=[*lines, ("all: time", f"about {duration(total)}, and embedding")], figures=figures
    )


def _shape(config: PipelineConfig) -> EncoderShape:
    source = config.pretrain.encoder.source or config.prepare.tokenizer.source
    if source:
        return source_shape(source)
    return architecture_shape(config.pretrain.encoder.architecture, config.prepare.tokenizer.vocabulary)


pipeline_command.__name__ = "pipeline"

if __name__ == "__main__":
    main(pipeline_command)
