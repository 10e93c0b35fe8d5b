"""A curve beside training: done when training is, whoever of the two was first, and never in the way of an error."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from small_recipe import RECIPE

from ccp_ray.artifact import Artifact, find_artifact
from ccp_ray.config import build_config
from ccp_ray.errors import TrainingError, UsageError
from ccp_ray.kept_checkpoints import checkpoint_name
from eval.curve import CurveConfig
from jobs.pipeline import PipelineConfig
from jobs.pipeline_curve import background_curve

pytestmark = pytest.mark.timeout(300)
EVERY = CurveConfig(every=30, resources={"poll_s": 0.1})


def test_steps_are_evaluated_before_training_ends(trained: Artifact, tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "curve"
    sentences = str(Path(trained.input("corpus").uri).with_name("documents") / "translations")
    with background_curve(str(run), {"translations": sentences}, str(output), EVERY):
        shutil.copytree(trained.uri, run, ignore=shutil.ignore_patterns("artifact.json"))
        before = output / "evaluations" / checkpoint_name(0) / "artifact.json"
        while not before.exists():  # the run is not finished: nothing but the background task can write it
            time.sleep(0.1)
        shutil.copy(f"{trained.uri}/artifact.json", run)
    done = find_artifact(str(output))
    assert done is not None
    assert done.summary["steps"] == [0, 30]


def test_training_that_fails_ends_the_curve_with_its_own_error(ray_local: None, tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        pytest.raises(TrainingError, match="diverged"),
        background_curve(str(tmp_path / "run"), {"translations": "x"}, str(tmp_path / "curve"), EVERY),
    ):
        raise TrainingError("diverged at step 3")
    assert time.monotonic() - started < 60  # it does not wait for a run that never comes


@pytest.mark.parametrize(
    ("curve", "keep_every", "words"),
    [
        ({"every": 10, "benchmarks": ["tatoeba"]}, 10, "'tatoeba' is none of benchmarks"),
        ({"every": 10, "benchmarks": ["context"]}, None, "checkpoint_keep_every=10"),
        ({"every": 10, "benchmarks": ["context"]}, 4, "checkpoint_keep_every=10"),
    ],
)
def test_a_recipe_whose_curve_cannot_be_drawn_is_refused(curve: object, keep_every: int | None, words: str) -> None:
    pretrain = RECIPE["pretrain"] | {"resources": {"checkpoint_every": 2, "checkpoint_keep_every": keep_every}}
    with pytest.raises(UsageError, match=words):
        build_config(PipelineConfig, RECIPE | {"pretrain": pretrain, "curve": curve})
