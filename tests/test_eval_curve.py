"""A curve over a run: every kept checkpoint once, waiting for those that come, going on where it stopped."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_factory import write_curve
from safetensors.numpy import load_file
from small_recipe import configured
from without_ray import embedding_here

from ccp_ray.artifact import Artifact, Request, digest_json, open_artifact, verify_artifact
from ccp_ray.checkpoint_export import export_checkpoint
from ccp_ray.errors import UsageError
from ccp_ray.kept_checkpoints import checkpoint_name
from ccp_ray.pretrain_job import initial_encoder
from eval import curve as module
from eval.curve import CurveConfig, curve
from eval.evaluate import RESULTS, evaluate
from eval.report_curves import EVALUATIONS, curves_of, read_evaluations
from jobs.curve import show_curve

pytestmark = pytest.mark.timeout(600)
EVERY = CurveConfig(every=25, resources={"poll_s": 0.05})
STEPS = [0, 25, 30]
"""The run of `small_recipe` keeps its last two checkpoints: 25 and 30."""


@pytest.fixture(scope="module")
def sentences(small_corpus: Artifact) -> str:
    """The generated test sentences, beside the corpus of their documents."""
    return str(Path(small_corpus.uri).with_name("documents") / "translations")


@pytest.fixture(scope="module")
def measured(trained: Artifact, sentences: str, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    with embedding_here():
        return curve(trained.uri, ["translations"], sentences, str(tmp_path_factory.mktemp("curve") / "c"), EVERY)


@pytest.fixture
def evaluated(measured: Artifact, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that are evaluated from here on; the results are copies of those that `measured` has."""
    steps: list[str] = []

    def copied(encoder: str, benchmarks: list[str], data: str, output: str, **_: object) -> Artifact:
        steps.append(output.rpartition("/")[2])
        shutil.copytree(f"{measured.uri}/evaluations/{steps[-1]}", output)
        return open_artifact(output, "evaluation")

    monkeypatch.setattr(module, "evaluate", copied)
    return steps


def test_the_end_is_the_evaluation_of_the_encoder(
    measured: Artifact, trained: Artifact, sentences: str, tmp_path: Path
) -> None:
    assert measured.summary["steps"] == STEPS
    assert measured.summary["missing"] == []
    with embedding_here():
        whole = evaluate(trained.uri, ["translations"], sentences, str(tmp_path / "whole"))
    expected = json.loads(whole.read(RESULTS))["benchmarks"]["translations"]["variants"]
    for variant, score in expected.items():
        assert measured.summary["last"]["translations"][variant] == pytest.approx(score["macro"], abs=1e-6)
    assert {row.step for row in read_evaluations(measured.read(EVALUATIONS), "curve")} == set(STEPS)
    assert curves_of(measured)[0].series[0].name == "raw"
    assert verify_artifact(measured) == []


def test_exported_encoders_are_gone_and_evaluations_stay(measured: Artifact) -> None:
    keys = [info.key for info in measured.store.list()]
    assert not [key for key in keys if key.startswith("encoders/")]
    assert {key.split("/")[1] for key in keys if key.startswith("evaluations/")} == {checkpoint_name(s) for s in STEPS}


def test_step_0_is_the_encoder_that_training_started_from(
    trained: Artifact, small_corpus: Artifact, tmp_path: Path
) -> None:
    exported = export_checkpoint(trained.uri, 0, str(tmp_path / "start"))
    start = initial_encoder(small_corpus.uri, str(tmp_path / "initial"), configured())
    found, expected = (load_file(f"{each.uri}/model.safetensors") for each in (exported, start))
    shared = found.keys() & expected.keys()
    assert {name for name in shared if "layer" in name}
    assert all(np.array_equal(found[name], expected[name]) for name in shared)


def unfinished(trained: Artifact, folder: Path, steps: list[int]) -> Path:
    """The run as it is under way: these checkpoints, no encoder yet."""
    run = folder / "run"
    shutil.copytree(trained.uri, run)
    (run / "artifact.json").unlink()
    for entry in (run / "_ledger" / "checkpoints").iterdir():
        if entry.stem not in {checkpoint_name(step) for step in steps}:
            entry.unlink()
    return run


def test_a_run_that_goes_on_is_followed_to_its_end(
    trained: Artifact, sentences: str, measured: Artifact, tmp_path: Path, evaluated: list[str]
) -> None:
    run = unfinished(trained, tmp_path, [25])
    finished = threading.Timer(1.0, lambda: _finish(trained, run))
    finished.start()
    followed = curve(str(run), ["translations"], sentences, str(tmp_path / "c"), EVERY, follow=True)
    finished.join()
    assert followed.read(EVALUATIONS) == measured.read(EVALUATIONS)


def _finish(trained: Artifact, run: Path) -> None:
    shutil.copytree(f"{trained.uri}/_ledger", run / "_ledger", dirs_exist_ok=True)
    shutil.copy(f"{trained.uri}/artifact.json", run / "artifact.json")


def test_unfinished_and_not_followed_keeps_its_work_and_goes_on(
    trained: Artifact, sentences: str, measured: Artifact, tmp_path: Path, evaluated: list[str]
) -> None:
    run = unfinished(trained, tmp_path, [25])
    with pytest.raises(UsageError, match=r"not finished; steps 0, 25 are evaluated"):
        curve(str(run), ["translations"], sentences, str(tmp_path / "c"), EVERY)
    _finish(trained, run)
    evaluated.clear()
    rest = curve(str(run), ["translations"], sentences, str(tmp_path / "c"), EVERY)
    assert evaluated == [checkpoint_name(30)]
    assert rest.read(EVALUATIONS) == measured.read(EVALUATIONS)


def test_what_the_run_does_not_keep_is_said(
    trained: Artifact, sentences: str, tmp_path: Path, evaluated: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.uri, run)
    for entry in (run / "_ledger" / "checkpoints").iterdir():
        entry.unlink()
    ends = curve(str(run), ["translations"], sentences, str(tmp_path / "c"), CurveConfig(every=15))
    assert (ends.summary["steps"], ends.summary["missing"]) == ([0, 30], [15])
    with pytest.raises(UsageError, match="holds no training run"):
        curve(str(tmp_path / "nothing"), ["translations"], sentences, str(tmp_path / "d"), EVERY)


def test_another_request_onto_the_same_output_is_refused(
    measured: Artifact, trained: Artifact, sentences: str, tmp_path: Path
) -> None:
    assert curve(trained.uri, ["translations"], sentences, measured.uri, EVERY).fingerprint == measured.fingerprint
    with pytest.raises(UsageError, match=r"config\.every: 25 -> 15"):
        curve(trained.uri, ["translations"], sentences, measured.uri, CurveConfig(every=15))
    other = tmp_path / "translations"
    shutil.copytree(sentences, other)
    changed = next(other.glob("*.txt"))
    changed.write_text(changed.read_text().replace("a", "o"))
    with pytest.raises(UsageError, match=r"the output holds another artifact; changed: inputs\.data\.translations"):
        curve(trained.uri, ["translations"], str(other), measured.uri, EVERY)
    training = Request.model_validate_json((Path(trained.uri) / "_job.json").read_text())
    assert measured.input("training").fingerprint == digest_json(training.identity())


def test_a_step_is_told_by_the_metric_that_a_benchmark_is_known_by(capsys: pytest.CaptureFixture[str]):
    """XQuAD-R's last one is not: it falls where retrieval across languages gets better."""
    scores = {"raw": {"map": 0.25, "map_mono": 0.5, "same_language@10": 0.9}, "shift": {"map": 0.5}}
    module._tell(1200, SimpleNamespace(summary={"benchmarks": {"xquad_r": scores}}))
    assert capsys.readouterr().err == "curve: step 1,200: xquad_r map raw 25.0, shift 50.0\n"


def test_a_curve_is_shown_by_step_and_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"step": step, "benchmark": "xquad_r", "variant": variant, "metric": metric, "value": value + more + step / 1e4}
        for metric, value in (("map", 0.25), ("map_mono", 0.9))
        for step in (0, 1200)
        for variant, more in (("raw", 0.0), ("shift", 0.1))
    ]
    show_curve(write_curve(str(tmp_path / "curve"), rows), False)
    assert capsys.readouterr().out.splitlines() == [
        "xquad_r, map, per cent",
        "   step   raw  shift",
        "      0  25.0   35.0",
        "  1,200  37.0   47.0",
    ]
