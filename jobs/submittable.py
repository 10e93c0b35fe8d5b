"""Verbs that can be submitted to a cluster, and what a command line of one asks for.

The command line is read by the verb's own parser and its configuration by the verb's own model, before anything is
sent: what the verb would refuse in its first second is refused here. Configuration files travel with the job, wherever
they lie.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import typer.main

from ccp_ray.calibration_config import CalibrationConfig
from ccp_ray.cluster_room import Need, Room
from ccp_ray.config import StrictModel, load_config
from ccp_ray.embed_config import EmbedConfig, EmbedResources
from ccp_ray.errors import UsageError
from ccp_ray.finetune_config import FinetuneConfig
from ccp_ray.index import IndexConfig
from ccp_ray.job_package import Package
from ccp_ray.job_records import JobRequest
from ccp_ray.languages import LanguagesConfig
from ccp_ray.mine import MineConfig
from ccp_ray.prepare import PrepareConfig
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.storage import read_uri
from ccp_ray.training_config import TrainingConfig
from ccp_ray.training_job import plan_workers
from eval.baseline import BaselinesConfig
from eval.curve import CurveConfig
from eval.evaluate import EvaluateConfig
from eval.passage_sets import PassagesConfig
from jobs.ablate import RECIPE as ABLATION
from jobs.ablate import ablate
from jobs.ablation_config import AblationConfig
from jobs.baseline import baseline
from jobs.calibrate import calibrate
from jobs.command import build_app
from jobs.curve import curve
from jobs.embed import embed
from jobs.evaluate import evaluate
from jobs.finetune import finetune
from jobs.generate import generate
from jobs.index import index
from jobs.mine import mine
from jobs.passages import passages
from jobs.pipeline import PipelineConfig, pipeline_command, recipe_file, recipe_names
from jobs.prepare import prepare
from jobs.pretrain import pretrain
from jobs.search import search

# Of each verb's own command line: told to the job otherwise, or about this machine's screen.
_OURS = ("config", "address", "plan", "as_json", "help")
_FOLDER = "submitted"  # in the package: configuration files from outside


class Work(NamedTuple):
    """A verb: its command, its configuration, what it takes to start, and where below --output its artifact lies."""

    command: Callable[..., None]
    model: type[StrictModel] | None
    need: Callable[[Any, Room], Need]
    artifact: str | None = ""  # None: it makes none


def _task(_config: Any, _room: Room) -> Need:
    """Ray tasks, one after the other if need be."""
    return Need()


def _training(config: TrainingConfig, room: Room, why: str = "resources") -> Need:
    """Raises UsageError as the training would: for no GPU, and groups that the workers cannot share out."""
    workers, gpu = plan_workers(config, room.cpus, room.gpus)
    least = workers if isinstance(workers, int) else workers[0]
    return Need(workers=least, cpus=config.resources.cpus_per_worker, gpus=float(gpu), why=f"{why}.workers")


def _embedding(config: EmbedConfig, room: Room) -> Need:
    return _actors(config.resources, room, "resources.workers")


def _actors(resources: EmbedResources, room: Room, why: str) -> Need:
    gpu = room.gpus > 0 if resources.gpu is None else resources.gpu
    workers = resources.workers[0] if isinstance(resources.workers, tuple) else resources.workers
    return Need(workers=workers or 1, cpus=0.7, gpus=float(gpu), why=why)


def _scoring(config: EvaluateConfig, room: Room) -> Need:
    return _actors(config.embed.resources, room, "embed.resources.workers")


def _pipeline(config: PipelineConfig, room: Room) -> Need:
    """Its training; embedding takes as many workers as there are, unless told."""
    return _training(config.pretrain, room, "pretrain.resources")


WORK: Mapping[str, Work] = {
    "pipeline": Work(pipeline_command, PipelineConfig, _pipeline, "report"),
    "generate": Work(generate, LanguagesConfig, _task),
    "prepare": Work(prepare, PrepareConfig, _task),
    "pretrain": Work(pretrain, PretrainConfig, _training),
    "mine": Work(
        mine, MineConfig, lambda config, room: _actors(config.embed.resources, room, "embed.resources.workers")
    ),
    "finetune": Work(finetune, FinetuneConfig, _training),
    "embed": Work(embed, EmbedConfig, _embedding),
    "calibrate": Work(calibrate, CalibrationConfig, _task),
    "index": Work(index, IndexConfig, _task),
    "search": Work(search, None, _task, None),
    "evaluate": Work(evaluate, EvaluateConfig, _scoring),
    "baseline": Work(baseline, BaselinesConfig, _task),
    "passages": Work(passages, PassagesConfig, _task),
    "curve": Work(curve, CurveConfig, lambda config, room: _scoring(config.evaluate, room)),
    "ablate": Work(ablate, AblationConfig, _task),
}


@dataclass(frozen=True)
class Asked:
    """A verb's command line, read. `given`: parameters by name as they stood there; `settings`: the configuration."""

    verb: str
    given: Mapping[str, Any]
    options: Mapping[str, str]  # --name of each that is no positional argument
    settings: StrictModel | None
    configs: Mapping[str, bytes] = field(default_factory=dict)  # by what --config said
    named: Sequence[str] = ()  # recipes that are said by name

    @property
    def output(self) -> str:
        return str(self.given["output"]).rstrip("/")

    def request(self) -> JobRequest:
        """What makes it the same as another."""
        plain = {name: value for name, value in self.given.items() if name not in ("output", "overrides")}
        config = self.settings.model_dump(mode="json") if self.settings else {}
        return JobRequest(verb=self.verb, arguments=plain, config=config, output=self.output)

    def need(self, room: Room) -> Need:
        """Raises UsageError where this cluster can never do it."""
        if self.given.get("runs"):  # scores of files: nothing is encoded
            return Need()
        return WORK[self.verb].need(self.settings, room)

    def artifact(self) -> str | None:
        """Where the finished artifact will lie."""
        below = WORK[self.verb].artifact
        return None if below is None else f"{self.output}/{below}".rstrip("/")

    def extra_files(self, package: Package) -> dict[str, bytes]:
        """Configuration files that are not in the package as they are, under the names they will have there."""
        inside = _names(self.configs, package)
        return {inside[uri]: data for uri, data in self.configs.items() if inside[uri] not in package.files}

    def entrypoint(self, package: Package, python: str) -> str:
        """The shell command of the job, from the package's folder. Ray logs it and shows it to all."""
        inside = _names(self.configs, package)
        words = [python, "-m", f"jobs.{self.verb}"]
        for name, value in self.given.items():
            if name not in self.options:
                words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
        for uri in (*self.named, *self.configs):
            words += ["--config", uri if uri in self.named else inside[uri]]
        for name, option in self.options.items():
            words += _option(option, self.given.get(name))
        return shlex.join([*words, "--address", "auto"])


def read_command(verb: str, arguments: Sequence[str]) -> Asked:
    """Read a verb's command line. Raises UsageError; the parser's own error for what it does not know."""
    if verb not in WORK:
        raise UsageError(f"submit: {verb!r} is no verb that runs on a cluster; those are {', '.join(WORK)}")
    command = typer.main.get_command(build_app(WORK[verb].command))
    context = command.make_context(f"ccp-ray submit {verb}", list(arguments))
    given: dict[str, Any] = {}
    options: dict[str, str] = {}
    for parameter in command.params:
        name, source = str(parameter.name), context.get_parameter_source(str(parameter.name))
        if name in _OURS or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        given[name] = list(value) if isinstance(value, tuple) else value
        if parameter.param_type_name == "option":
            options[name] = max(parameter.opts, key=len)
    if not given.get("output"):
        raise UsageError(f"submit {verb}: give an --output; what a job prints is not kept")
    return _with_config(verb, given, options, context.params)


def _with_config(verb: str, given: dict[str, Any], options: dict[str, str], params: Mapping[str, Any]) -> Asked:
    files, model = list(params.get("config") or ()), WORK[verb].model
    named = [name for name in files if verb == "pipeline" and name in recipe_names()]
    configs = {uri: read_uri(uri) for uri in files if uri not in named}
    settings = None
    if model is not None:
        sources = [recipe_file(uri) if uri in named else uri for uri in files]
        if verb == "ablate" and not sources:
            sources = [str(ABLATION)]
        values = {"every": params["every"]} if verb == "curve" else None
        settings = load_config(model, sources, list(params.get("overrides") or ()), values)
    return Asked(verb, given, options, settings, configs, named)


def _names(configs: Mapping[str, bytes], package: Package) -> dict[str, str]:
    """The name in the package of each configuration file; of one that is no part of it: below `submitted`."""
    names: dict[str, str] = {}
    for number, uri in enumerate(configs):
        path = Path(uri).resolve()
        inside = path.relative_to(package.root).as_posix() if path.is_relative_to(package.root) else ""
        names[uri] = inside if inside in package.files else f"{_FOLDER}/{number}-{path.name}"
    return names


def _option(option: str, value: Any) -> Iterator[str]:
    if value is True:
        yield option
    elif isinstance(value, list):
        for each in value:
            yield from (option, str(each))
    elif value is not None and value is not False:
        yield from (option, str(value))
