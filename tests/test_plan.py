"""--plan: what it foretells is so, and it starts, writes and reads no more than it must."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pair_files
import pytest
import tiny_models
import yaml
from command_line import SETTINGS, SmallRun, ccp, settings
from safetensors import safe_open
from safetensors.numpy import load_file
from small_recipe import write_recipe
from test_eval_baselines import TEXTS, benchmark_folder
from test_eval_passage_sets import squad_folder

from ccp_ray.artifact import Artifact, open_artifact
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_step
from jobs import command


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, small_run: SmallRun) -> None:
    """A plan that wanted a Ray session would fail here; the run that plans read is made before."""

    def refuse(*_: object) -> None:
        raise AssertionError("a plan started Ray")

    for name in ("ray_session", "ray_session_at_need"):
        monkeypatch.setattr(command, name, refuse)


def plan(output: Path, verb: str, *arguments: object) -> dict[str, float]:
    """The figures. The same command for people must show every line."""
    asked = (verb, *arguments, "--output", output, "--plan", *settings(verb))
    told = ccp(*asked, "--json")
    assert told.code == 0, told.err
    assert told.out.count("\n") == 1
    shown = ccp(*asked)
    assert [line.partition("  ")[0] for line in shown.out.splitlines()] == [name for name, _ in told.json["lines"]]
    assert told.err == shown.err == ""
    assert not output.exists()
    assert told.json["stage"] == verb
    return told.json["figures"]


def test_generate_and_prepare(small_run: SmallRun, tmp_path: Path):
    summary = small_run.results["generate"].json
    assert plan(tmp_path / "x", "generate")["documents"] == summary["documents"]
    files = [path for path in Path(small_run.documents, "documents").rglob("*") if path.is_file()]
    figures = plan(tmp_path / "x", "prepare", small_run.documents)
    assert (figures["files"], figures["bytes"]) == (len(files), sum(path.stat().st_size for path in files))


def test_pretrain_refuses_what_the_run_would(small_run: SmallRun, tmp_path: Path):
    asked = ("pretrain", small_run.corpus, "--output", tmp_path / "x", "--plan")
    assert "bank.size=1024 is larger than the corpus" in ccp(*asked).error
    assert "'xx' is not in the corpus" in ccp(*asked, "--set", 'languages=["xx"]').error


def test_pretrain_counts_the_parameters_that_the_encoder_will_have(small_run: SmallRun, tmp_path: Path):
    shape = {"layers": 1, "hidden": 32, "heads": 2, "intermediate": 64, "positions": 40}
    chosen = [part for key, value in shape.items() for part in ("--set", f"encoder.architecture.{key}={value}")]
    chosen += ["--set", "bank.size=64"]
    figures = plan(tmp_path / "x", "pretrain", small_run.corpus, *chosen, "--set", "steps=7")
    with safe_open(Path(small_run.encoder, "model.safetensors"), "np") as weights:
        names = [name for name in weights.keys() if "pooler" not in name]  # noqa: SIM118
        real = sum(weights.get_tensor(name).size for name in names)
    assert figures["parameters"] == pytest.approx(real, rel=0.01)
    other = plan(tmp_path / "x", "pretrain", small_run.corpus, *chosen, "--set", "steps=70")
    assert other["tokens"] == 10 * figures["tokens"]
    told = ccp("pretrain", small_run.corpus, "--output", tmp_path / "x", "--plan", *chosen, "--set", "steps=70")
    epochs = [float(number) for number in re.findall(r"[\d.]+(?= \(q)", re.search("^epochs .*", told.out, re.M)[0])]
    sentences = json.loads(Path(small_run.corpus, "artifact.json").read_text())["summary"]["languages"]
    each = sorted(70 * 4 * 64 / 2 / sentences[lang]["train_sentences"] for lang in ("qaa", "qab"))
    assert sorted(epochs) == pytest.approx(each, rel=0.1)


def test_embed_calibrate_and_index(small_run: SmallRun, tmp_path: Path):
    rows = open_artifact(small_run.embeddings).summary["rows"]
    assert plan(tmp_path / "x", "embed", small_run.encoder, small_run.corpus)["rows"] == rows
    assert plan(tmp_path / "x", "calibrate", small_run.embeddings)["rows"] == rows
    figures = plan(tmp_path / "x", "index", small_run.embeddings)
    assert SETTINGS["index"] == ["dtype=float32"]
    assert (figures["rows"], figures["bytes"]) == (rows, rows * 32 * 4)


def test_evaluate(small_run: SmallRun, tmp_path: Path):
    asked = ("evaluate", small_run.encoder, "--benchmarks", "translations", "--data", small_run.documents)
    assert plan(tmp_path / "x", *asked)["translations"] == 2 * 20


def write_settings(path: Path, **settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def test_finetune(tmp_path: Path):
    source = tiny_models.plain_folder(tmp_path / "start")
    train = pair_files.write_dpr(tmp_path / "train.json", pair_files.rows(40))
    dev = pair_files.write_dpr(tmp_path / "dev.json", pair_files.rows(12, seed=1))
    chosen = {"encoder": {"source": str(source), "pooling": "mean"}, "train": [{"file": train}]}
    settings = {"groups_per_step": 2, "questions_per_group": 4, "epochs": 4, "resources": {"workers": 2}}
    config = write_settings(tmp_path / "config.yaml", **chosen, dev_data=[{"file": dev}], **settings)
    figures = plan(tmp_path / "x", "finetune", "--config", config)
    assert (figures["questions"], figures["dev_questions"], figures["steps"]) == (40, 12, 4 * 40 / 8)
    weights = load_file(source / "model.safetensors").values()
    assert figures["parameters"] == pytest.approx(sum(weight.size for weight in weights), rel=0.01)
    two = plan(tmp_path / "x", "finetune", "--config", config, "--set", "tied=false", "--set", "max_steps=5")
    assert two["parameters"] == 2 * figures["parameters"]
    assert (two["steps"], two["tokens"]) == (5, figures["tokens"] / 4)
    assert two["model"] + two["optimizer"] == 2 * (figures["model"] + figures["optimizer"])
    assert two["activations"] == figures["activations"]
    # With one worker each group is encoded a second time (8 operations for 6), by half as many cores.
    alone = plan(tmp_path / "x", "finetune", "--config", config, "--set", "resources.workers=1")
    assert alone["seconds"] > 2 * 1.2 * figures["seconds"]
    told = ccp("finetune", "--config", config, "--output", tmp_path / "x", "--plan", "--set", "groups_per_step=12")
    assert "a step takes 48 questions" in told.error


def test_mine(small_run: SmallRun, tmp_path: Path):
    file = pair_files.write_dpr(tmp_path / "train.json", pair_files.rows(30))
    config = write_settings(tmp_path / "config.yaml", sources=[{"file": file}])
    rows = open_artifact(small_run.embeddings).summary["rows"]
    asked = ("mine", "--config", config)
    built = plan(tmp_path / "x", *asked, "--encoder", small_run.encoder, "--passages", small_run.corpus)
    there = plan(tmp_path / "x", *asked, "--index", small_run.index)
    assert (built["questions"], built["rows"]) == (there["questions"], there["rows"]) == (30, rows)
    assert built["seconds"] > there["seconds"]


def test_passages_and_baseline(tmp_path: Path):
    """Of no distractors the sets are the files' own paragraphs."""
    squad, distractors = squad_folder(tmp_path / "squad"), ("--set", "distractors=4000")
    figures = plan(tmp_path / "x", "passages", "--squad", squad, "--set", "distractors=0")
    assert (figures["questions"], figures["paragraphs"]) == (4, 4)
    more = plan(tmp_path / "x", "passages", "--squad", squad, *distractors)
    twice = plan(tmp_path / "x", "passages", "--squad", squad, "--set", "distractors=8000")
    assert twice["bytes"] - figures["bytes"] == 2 * (more["bytes"] - figures["bytes"]) > 0
    data = benchmark_folder(tmp_path)
    asked = ("baseline", "bm25", "--benchmarks", "mrtydi,xor_retrieve", "--data", data)
    figures = plan(tmp_path / "x", *asked, "--set", 'mrtydi.languages=["en"]')
    counts = {"mrtydi": 2, "mrtydi.passages": len(TEXTS), "xor_retrieve": 1, "xor_retrieve.passages": len(TEXTS)}
    assert {name: figures[name] for name in counts} == counts


def test_curve_counts_what_the_run_keeps(trained: Artifact, small_run: SmallRun, tmp_path: Path):
    kept = [checkpoint_step(key) for key in checkpoint_ledger(trained.store).committed()]
    every = min(kept)
    asked = ("curve", trained.uri, "--every", every, "--benchmarks", "translations", "--data", small_run.documents)
    figures = plan(tmp_path / "x", *asked)
    steps = {0, trained.summary["trained_steps"], *(step for step in kept if step % every == 0)}
    assert (figures["steps"], figures["translations"]) == (len(steps), 2 * 20)
    with safe_open(Path(trained.uri, "model.safetensors"), "np") as weights:
        real = sum(weights.get_tensor(name).nbytes for name in weights.keys())  # noqa: SIM118
    assert figures["bytes"] == pytest.approx(real, rel=0.1)


def test_pipeline_adds_up_its_stages(tmp_path: Path):
    recipe = write_recipe(tmp_path)
    figures = plan(tmp_path / "x", "pipeline", "--config", recipe)
    assert figures["generate.documents"] == 3 * 34
    assert {name.partition(".")[0] for name in figures} >= {"generate", "prepare", "pretrain"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("prepare", "nowhere.jsonl"), "nowhere.jsonl: no such file, or a folder or pattern without files"),
        (("pretrain", "nowhere"), "nowhere: holds no artifact (expected a finished corpus)"),
        (("embed", "./nowhere", "x.jsonl"), "./nowhere: no such model folder"),
        (("calibrate", "nowhere"), "nowhere: holds no artifact (expected a finished embeddings)"),
        (("index", "nowhere"), "nowhere: holds no artifact (expected a finished embeddings)"),
        (("evaluate", "x", "--benchmarks", "foo", "--data", "y"), "unknown benchmark 'foo'"),
        (
            ("finetune", "--set", 'train=[{"file": "nowhere"}]', "--set", "encoder.source=./x"),
            "./x: no such model folder",
        ),
        (("mine", "--index", "x", "--set", 'sources=[{"file": "nowhere"}]'), "nowhere: no such file"),
        (("passages", "--squad", "nowhere"), "nowhere: no files NAME.LANG.json in SQuAD's format"),
        (("baseline", "tfidf", "--benchmarks", "mrtydi", "--data", "y"), "unknown baseline 'tfidf'"),
        (
            ("curve", "nowhere", "--every", "5", "--benchmarks", "tatoeba", "--data", "y"),
            "nowhere: holds no training run",
        ),
        (("pipeline",), "--config: a pipeline needs a recipe"),
    ],
)
def test_what_cannot_be_done_cannot_be_planned(asked: tuple[str, ...], words: str, tmp_path: Path):
    result = ccp(*asked, "--output", tmp_path / "x", "--plan")
    assert result.code == 2
    assert result.error.removeprefix(f"{Path.cwd()}/").startswith(words)


def test_the_plan_of_a_recipe_without_its_data_says_how_to_name_it(tmp_path: Path):
    recipe = write_recipe(tmp_path, languages=None, documents=["{data}/documents"])
    result = ccp("pipeline", "--config", recipe, "--output", tmp_path / "x", "--plan")
    assert (result.code, result.error.partition(":")[2]) == (2, " set the folder of the data with --set data=FOLDER")
    assert json.dumps(result.out) == '""'
