"""The training loop as ranks without Ray: killed, told to end, resized; the outcome is that of an undisturbed run.

The corpus is real (prepared once), engines are DeepSpeed's, kills are SIGKILL at random times.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranks import Ranks, run_ranks, wait_until
from small_recipe import RECIPE, loop

from ccp_ray.artifact import Artifact
from ccp_ray.config import build_config
from ccp_ray.corpus import Corpus
from ccp_ray.faults import VARIABLE
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.sampling import Sampler

pytestmark = pytest.mark.timeout(600)
STEPS = 15
BANKS = {0: {}, 1: {"momentum": 0.9}, 2: {"placement": "sharded"}, 3: {"placement": "sharded", "momentum": 0.9}}
POINTS = {0: "train.stepped", 1: "checkpoint.written", 2: "checkpoint.committed", 3: "checkpoint.written"}
HEADS = {1: {"head_start": "identity", "projection": 32}}
Run = tuple[list[dict[str, Any]], dict[str, Any]]


def configured(stage: int = 1, **changes: Any) -> str:
    """Rows and checkpoints do not end at the same steps, so checkpoints hold unfinished rows."""
    asked = RECIPE["pretrain"] | {"groups_per_step": 4, "steps": STEPS, "deepspeed": {"zero_stage": stage}}
    asked |= {
        "log_every": 4,
        "monitor": {"every": 6, "pairs": 8, "action": "warn"},
        "resources": {"checkpoint_every": 3},
    }
    asked["bank"] = {"size": 64, "warmup_steps": 2} | changes.pop("bank", {})
    return build_config(PretrainConfig, asked | changes).model_dump_json()


def _pretrain(rank: int, world: int, corpus: str, output: str, config: str, broken: Any = None, fault: str = "") -> Run:
    """Metrics rows and final weights. broken: (step, group) whose loss is made NaN. fault: a point to wait at."""
    import deepspeed

    from ccp_ray.preemption import heed_sigterm

    os.environ[VARIABLE] = fault
    heed_sigterm()
    settings = PretrainConfig.model_validate_json(config)
    run = loop(corpus, output, settings)
    if broken:
        _break(run, *broken)
    run.run(lambda _: None)
    parameters = dict(run.engine.module.named_parameters())
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=settings.deepspeed.zero_stage == 3):
        return run.rows, {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}


def _break(run: Any, step: int, group: int) -> None:
    """The loss of one group becomes NaN where the loss function would have made it so."""
    contrast, batch, at = run.step._contrast, run.step._batch, []

    def noted(*arguments: Any) -> Any:
        at[:] = [arguments]
        return batch(*arguments)

    def broken(*arguments: Any) -> Any:
        output, term = contrast(*arguments)
        return (output._replace(loss=output.loss * float("nan")) if at[0][:2] == (step, group) else output), term

    run.step._batch, run.step._contrast = noted, broken


def committed(output: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (output / "_ledger/checkpoints").glob("*.json"))


def beyond(output: Path, step: int) -> bool:
    return max(committed(output), default=0) > step


def kill_after(output: Path, step: int, world: int, *arguments: Any) -> None:
    """Train until a checkpoint beyond `step` is committed and a random time more, then SIGKILL every rank."""
    ranks = Ranks(world, _pretrain, *arguments)
    wait_until(lambda: beyond(output, step) or not all(process.is_alive() for process in ranks.processes))
    if not beyond(output, step):
        ranks.results()  # raises with the error of the rank that failed
    wait_until(lambda: False, random.uniform(0, 0.3))
    ranks.kill()
    assert beyond(output, step)


def kill_at(point: str, flag: Path, world: int, *arguments: Any) -> None:
    """Train until a rank reaches the point, then SIGKILL every rank."""
    ranks = Ranks(world, _pretrain, *arguments, None, f"{point}={flag}")
    wait_until(lambda: flag.exists() or not all(process.is_alive() for process in ranks.processes))
    if not flag.exists():
        ranks.results()  # raises with the error of the rank that failed
    ranks.kill()
    assert flag.exists()


def assert_same(one: Run, other: Run) -> None:
    assert one[0] == other[0]  # every digit of every metric, probes included
    for name, weights in one[1].items():
        assert np.array_equal(weights, other[1][name]), name


@pytest.mark.parametrize("stage", BANKS)
def test_killed_at_a_named_point_and_a_random_step_losses_and_weights_are_the_same_bits(
    small_corpus: Artifact, tmp_path: Path, stage: int
) -> None:
    config = configured(stage, bank=BANKS[stage], **HEADS.get(stage, {}))
    undisturbed = run_ranks(2, _pretrain, small_corpus.uri, str(tmp_path / "whole"), config)
    output = tmp_path / "killed"
    kill_at(POINTS[stage], tmp_path / "reached", 2, small_corpus.uri, str(output), config)
    kill_after(output, random.choice(range(3, STEPS - 3, 3)), 2, small_corpus.uri, str(output), config)
    resumed = run_ranks(2, _pretrain, small_corpus.uri, str(output), config)
    assert_same(undisturbed[0], resumed[0])


def test_through_other_world_sizes_stages_and_placements_within_rounding(
    small_corpus: Artifact, tmp_path: Path
) -> None:
    """2 workers, then 4, 1 and 2 again; banks and the momentum encoder go along."""
    momentum = {"momentum": 0.9}
    undisturbed, _ = run_ranks(2, _pretrain, small_corpus.uri, str(tmp_path / "whole"), configured(1, bank=momentum))
    output = tmp_path / "resized"
    legs = [(2, 1, "replicated"), (4, 3, "sharded"), (1, 2, "sharded"), (2, 0, "sharded")]
    for number, (world, stage, placement) in enumerate(legs):
        config = configured(stage, bank=momentum | {"placement": placement})
        if number < len(legs) - 1:
            kill_after(output, 3 * number, world, small_corpus.uri, str(output), config)
        else:
            resized, _ = run_ranks(world, _pretrain, small_corpus.uri, str(output), config)
    for one, other in zip(undisturbed[0], resized[0], strict=True):
        if "probe" not in one:
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4), one["step"]
    for name, weights in undisturbed[1].items():
        np.testing.assert_allclose(resized[1][name], weights, rtol=0, atol=1e-4, err_msg=name)


def test_a_sigterm_to_one_rank_makes_all_checkpoint_and_end(small_corpus: Artifact, tmp_path: Path) -> None:
    undisturbed = run_ranks(2, _pretrain, small_corpus.uri, str(tmp_path / "whole"), configured())
    output = tmp_path / "told"
    rarely = configured(resources={"checkpoint_every": 2000})
    often = configured(resources={"checkpoint_every": 2})  # not a multiple of log_every: rows are unfinished
    ranks = Ranks(2, _pretrain, small_corpus.uri, str(output), often)
    assert wait_until(lambda: beyond(output, 0))
    pid = ranks.processes[1].pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(RuntimeError) as told:
        ranks.results()
    said = re.search(r"PreemptedError: a worker was told to end .*; the checkpoint of step (\d+) is", str(told.value))
    assert said, told.value
    assert committed(output)[-1] == int(said[1])
    assert_same(undisturbed[0], run_ranks(2, _pretrain, small_corpus.uri, str(output), rarely)[0])


def test_a_loss_that_is_not_finite_is_named_with_its_batch(small_corpus: Artifact, tmp_path: Path) -> None:
    settings = PretrainConfig.model_validate_json(configured())
    with pytest.raises(RuntimeError) as failed:
        run_ranks(2, _pretrain, small_corpus.uri, str(tmp_path), configured(), (7, 3))
    opened = Corpus(small_corpus)
    sizes = {lang: opened.training_sentences(lang) for lang in opened.languages}
    draw = Sampler(settings.seed, sizes, settings.language_exponent, 4, "pairs").draw(7, 3, settings.pairs_per_group)
    (shard,) = opened.token_shards(draw.lang)
    documents = np.load(Path(small_corpus.uri, shard.documents))
    first = next(number for number, end in enumerate(documents[1:]) if draw.indices[0] < end)
    assert (
        f"TrainingError: the loss is nan at step 7, in group 3 (language '{draw.lang}', documents "
        f"{shard.documents.split('/')[-2]}/{first}, " in str(failed.value)
    )
    assert str(failed.value).count("(language") == 1
    assert "the last checkpoint is kept" in str(failed.value)
    assert committed(tmp_path) == [3, 6]
    record = json.loads((tmp_path / "_ledger/checkpoints/step-000000006.json").read_text())
    assert all((tmp_path / file["path"]).exists() for file in record["files"])
