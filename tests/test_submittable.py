"""A command line that is submitted: read as the verb reads it, its files with it, refused where it means nothing."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import pytest
from command_line import ccp

from ccp_ray.cluster_room import Node, Room
from ccp_ray.config import load_config
from ccp_ray.errors import UsageError
from ccp_ray.job_package import Package, package
from jobs.cli import VERBS
from jobs.submit import Submission
from jobs.submittable import WORK, read_command
from jobs.submitted_paths import check_paths

CODE = package()
OUT = "s3://bucket/run"


def room(cpus: float, gpus: float = 0, nodes: int = 1) -> Room:
    return Room(nodes=[Node(address=str(number), head=number == 0, cpus=cpus, gpus=gpus) for number in range(nodes)])


def entrypoint(verb: str, *arguments: str, code: Package = CODE) -> list[str]:
    return shlex.split(read_command(verb, arguments).entrypoint(code, "python"))


def test_every_verb_that_runs_on_a_cluster_can_be_submitted():
    signatures = {verb.__name__: inspect.signature(verb).parameters for verb in VERBS}
    configured = {name for name, parameters in signatures.items() if {"overrides", "address"} <= parameters.keys()}
    assert configured == {name for name, work in WORK.items() if work.model is not None}
    for name, work in WORK.items():
        assert work.command.__name__ == name
        assert {"output", "address"} <= inspect.signature(work.command).parameters.keys()


def test_the_command_of_the_job_says_what_was_said():
    asked = ("s3://b/e", "s3://b/c d", "--output", OUT, "--reuse", "s3://b/1", "--reuse", "s3://b/2")
    words = entrypoint("embed", *asked, "--set", "dtype=float32", "--set", "limit=5", "--json", "--address", "x:1")
    assert words[:5] == ["python", "-m", "jobs.embed", "s3://b/e", "s3://b/c d"]
    assert words[-2:] == ["--address", "auto"]
    assert sorted(words[5:-2]) == sorted([*asked[2:], "--set", "dtype=float32", "--set", "limit=5"])


def test_flags_and_short_options():
    curve = ("s3://b/run", "-o", OUT, "--every", "10", "--benchmarks", "tatoeba", "--data", "s3://b/d", "--follow")
    words = entrypoint("curve", *curve)
    assert words.count("--follow") == 1
    assert words[words.index("--output") + 1] == OUT
    assert words[words.index("--every") + 1] == "10"


def test_a_request_is_its_resolved_configuration(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("steps: 7\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("seed: 1\n")
    ways = [
        ["--set", "steps=7", "--set", "seed=1"],
        ["--config", str(tmp_path / "a.yaml")],
        ["--config", str(tmp_path / "b.yaml"), "--set", "steps=7", "--plan"],
        ["--set", "steps=3", "--set", "steps=7", "--set", "seed=1", "--set", "max_tokens=64"],
    ]
    ids = {
        read_command("pretrain", ["s3://b/c", "--output", out, *way]).request().submission_id(1)
        for way in ways
        for out in (OUT, f"{OUT}/")
    }
    default = read_command("pretrain", ["s3://b/c", "--output", OUT]).settings
    assert default is not None
    assert default.model_dump()["max_tokens"] == 64  # spelt out or not
    assert len(ids) == 1
    other = read_command("pretrain", ["s3://b/c2", "--output", OUT, *ways[0]]).request().submission_id(1)
    assert other not in ids


def test_configuration_files_go_along_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine = tmp_path / "my recipe.yaml"
    mine.write_text("languages: {count: 2}\n")
    inside = CODE.root / "jobs" / "recipes" / "quickstart.yaml"
    monkeypatch.chdir(CODE.root / "jobs")
    asked = read_command("pipeline", ["-c", "recipes/quickstart.yaml", "-c", str(mine), "--output", OUT])
    assert asked.extra_files(CODE) == {"submitted/1-my recipe.yaml": mine.read_bytes()}
    words = shlex.split(asked.entrypoint(CODE, "/opt/python"))
    assert words[:3] == ["/opt/python", "-m", "jobs.pipeline"]
    given = [words[number + 1] for number, word in enumerate(words) if word == "--config"]
    assert given == [inside.relative_to(CODE.root).as_posix(), "submitted/1-my recipe.yaml"]


def test_a_recipe_may_be_said_by_name():
    words = entrypoint("pipeline", "--config", "quickstart", "--output", OUT)
    assert words[words.index("--config") + 1] == "quickstart"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["status", "s3://b/x"], "no verb that runs on a cluster; those are pipeline"),
        (["search", "s3://b/index", "text"], "give an --output"),
        (["pretrain", "s3://b/c", "--output", OUT, "--set", "stepps=3"], "did you mean 'steps'?"),
        (["pipeline", "--config", "no/such.yaml", "--output", OUT], "no/such.yaml"),
        (["pipeline", "--output", OUT], "say where the text comes from"),
    ],
)
def test_what_the_verb_would_refuse_is_refused_before_anything_is_sent(command: list[str], said: str):
    result = ccp("submit", *command, "--address", "http://127.0.0.1:9")
    assert result.code == 2
    assert said in result.error


def test_an_unknown_option_is_the_verb_s_parser_s_to_refuse():
    result = ccp("submit", "generate", "--outptu", OUT)
    assert result.code == 2
    assert "--outptu" in result.err
    assert "ccp-ray submit generate" in result.err


def test_the_need_is_the_training_s():
    asked = read_command("pretrain", ["s3://b/c", "--output", OUT, "--set", "resources.cpus_per_worker=3"])
    need = asked.need(room(8))
    assert (need.workers, need.cpus, need.gpus, need.why) == (2, 3, 0, "resources.workers")
    assert asked.need(room(8, 4)).gpus == 1
    elastic = read_command("pipeline", ["-c", "quickstart", "-o", OUT, "--set", "pretrain.resources.workers=[2,4]"])
    assert (elastic.need(room(1)).workers, elastic.need(room(64, nodes=2)).workers) == (2, 2)
    with pytest.raises(UsageError, match="the cluster has no GPU"):
        read_command("pretrain", ["s3://b/c", "--output", OUT, "--set", "resources.gpu=true"]).need(room(8))


def test_the_recipe_for_eight_gpus_says_so():
    recipe = str(CODE.root / "jobs" / "recipes" / "xlmr_base_8xh100.yaml")
    need = read_command("pipeline", ["-c", recipe, "--set", "data=s3://b/t", "-o", OUT]).need(room(128, 8))
    assert (need.workers, need.gpus) == (8, 1)


@pytest.mark.parametrize("recipe", sorted((CODE.root / "jobs" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_submitted_as_it_is(recipe: Path):
    """The same file as for a run without a cluster, and the same settings."""
    verb = {"ablation": "ablate", "finetune": "finetune", "evaluate": "evaluate"}.get(
        recipe.stem.split("_")[0], "pipeline"
    )
    given = ["s3://b/e", "--benchmarks", "tatoeba", "--data", "s3://b/d"] if verb == "evaluate" else []
    asked = read_command(verb, [*given, "--config", str(recipe), "--output", OUT])
    model = WORK[verb].model
    assert model is not None
    assert asked.settings == load_config(model, [str(recipe)])
    assert asked.extra_files(CODE) == {}
    assert f"--config jobs/recipes/{recipe.name}" in asked.entrypoint(CODE, "python")


def notes(*command: str) -> list[str]:
    return check_paths(read_command(command[0], command[1:]), CODE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.jsonl").write_text("{}")
    (tmp_path / "train.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["generate", "--output", "runs/x"], "--output runs/x: a relative path"),
        (["prepare", "docs", "--output", OUT], "DOCUMENTS: docs is on this machine"),
        (["prepare", "s3://b/x", "docs/*.jsonl", "--output", OUT], r"DOCUMENTS: docs/\*.jsonl is on this machine"),
        (["evaluate", "org/e", "--benchmarks", "tatoeba", "--data", "docs", "-o", OUT], "--data: docs is on"),
        (
            ["evaluate", "org/e", "--benchmarks", "mine.py", "--data", "s3://b/d", "-o", OUT],
            "mine.py: the file must be",
        ),
        (
            ["pipeline", "--set", "data=docs", "--set", "documents=['{data}/a.jsonl']", "-o", OUT],
            r"documents\[0\]: docs/a.jsonl is on this machine",
        ),
        (
            ["finetune", "-o", OUT, "--set", "encoder.source=org/e", "--set", "train=[{file: train.json, lang: en}]"],
            r"train\[0\].file: train.json is on this machine",
        ),
    ],
)
def test_paths_that_mean_nothing_there_are_refused(here: Path, command: list[str], said: str):
    with pytest.raises(UsageError, match=said):
        notes(*command)


def test_paths_that_may_be_shared_are_said(here: Path):
    assert notes("prepare", str(here / "docs"), "/not/here", "--output", str(here / "out")) == [
        f"--output {here / 'out'} must be on a file system that all nodes of the cluster share",
        f"DOCUMENTS: {here / 'docs'} must be on a file system that all nodes of the cluster share",
    ]


def test_what_is_no_path_is_left_alone(here: Path):
    assert notes("embed", "sentence-transformers/some-model", "s3://b/c", "--output", OUT, "--set", "prompt=docs") == []
    assert notes("search", "s3://b/i", "docs", "--output", f"{OUT}/x.trec") == []


def test_too_large_a_checkout_is_refused_before_the_cluster_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ccp_ray.job_package.MOST_BYTES", 1000)
    result = ccp("submit", "generate", "--output", OUT, "--address", "http://127.0.0.1:9")
    assert result.code == 2
    assert "a cluster takes" in result.error
    assert "ccp_ray/" in result.error


def test_the_parser_s_help_names_the_verbs():
    result = ccp("submit", "--help")
    assert result.code == 0
    assert "VERB ARGUMENTS" in result.out


class Busy:
    """A cluster whose CPUs are all in use, and told to be."""

    url = "http://head:8265"

    def room(self) -> Room:
        return Room(nodes=[Node(address="a", head=True, cpus=2, gpus=0, free_cpus=0, free_gpus=0)])


def test_a_busy_cluster_refuses_and_with_wait_takes_it(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("jobs.submit._USAGE_AGE_S", 0)
    asked = read_command("generate", ["--output", OUT])
    submission = Submission(Busy(), asked, CODE, "python", as_json=False)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"others use them: 1 node with 2 CPUs and 0 GPUs, of which 0 CPUs"):
        submission._check_room(wait=False)
    submission._check_room(wait=True)
    assert "the job waits for them there" in capsys.readouterr().err
