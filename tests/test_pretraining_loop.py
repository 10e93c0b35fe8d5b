"""The loop of one worker on a real corpus: each problem the monitor names stops it, and leaves the last checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from small_recipe import configured, loop

from ccp_ray.artifact import Artifact
from ccp_ray.errors import CcpError, TrainingError
from ccp_ray.pretrain_config import PretrainConfig

pytestmark = pytest.mark.timeout(300)

# Vectors that no encoder made, from the first step on: the loss falls by telling them from real ones.
_FOREIGN_KEYS = {"size": 300, "fill": "random", "warmup_steps": 0, "max_age": None}
STOPS = {
    "staleness shortcut at step 10: gap": {"bank": _FOREIGN_KEYS},
    "divergence at step 10: loss": {"temperature": 0.004},  # so sharp that a wrong neighbour costs more than guessing
    "collapse of q": {"monitor": {"collapsed_share": 5.0}},  # of its best: no spread is five times its own
}


def committed(output: Path) -> list[int]:
    """Steps of the checkpoints that count."""
    return sorted(int(path.stem.removeprefix("step-")) for path in (output / "_ledger/checkpoints").glob("*.json"))


def _train(rank: int, world: int, corpus: str, output: str, config: str) -> tuple[list[dict[str, Any]], str]:
    """Metrics rows, and what stopped it."""
    run = loop(corpus, output, PretrainConfig.model_validate_json(config))
    try:
        run.run(lambda _: None)
    except TrainingError as error:
        return run.rows, str(error)
    return run.rows, ""


def trained(corpus: Artifact, output: Path, **changes: Any) -> tuple[list[dict[str, Any]], str]:
    monitor = {"every": 10, "pairs": 8, "action": "stop"} | changes.pop("monitor", {})
    config = configured(monitor=monitor, **({"steps": 20} | changes))
    return run_ranks(1, _train, corpus.uri, str(output), config.model_dump_json())[0]


@pytest.mark.parametrize("name", STOPS)
def test_a_problem_stops_the_run_by_its_name_and_keeps_the_last_checkpoint(
    small_corpus: Artifact, tmp_path: Path, name: str
) -> None:
    rows, said = trained(small_corpus, tmp_path, **STOPS[name])
    assert said.startswith(name), (said, rows[-2])
    assert "at step 10" in said
    assert said.endswith("(run again with monitor.action=warn to train on)")
    assert rows[-1]["step"] == 10
    assert committed(tmp_path) == [5]


def test_a_healthy_run_is_not_stopped_and_says_how_often_each_language_was_gone_through(
    small_corpus: Artifact, tmp_path: Path
) -> None:
    rows, said = trained(small_corpus, tmp_path, pairs_per_group=64, bank={"size": 64, "warmup_steps": 10})
    assert said == ""
    last = rows[-1]["probe"]
    assert sum(values["epochs"] for values in last.values()) == pytest.approx(20 * 2 * 64 / 300)  # 300 sentences each
    assert min(values["epochs"] for values in last.values()) > 1  # all ran dry, and began again
    assert all(values["epochs"] == 0 for values in rows[0]["probe"].values())


def test_a_leak_stops_with_its_name_and_the_same_work_goes_on_with_a_warning(
    small_corpus: Artifact, tmp_path: Path
) -> None:
    leaky, monitor = {"norm": "symmetric", "steps": 15}, {"pairs": 64, "leak": 0.01}
    _, said = trained(small_corpus, tmp_path, monitor=monitor, **leaky)
    assert re.match(r"leakage of qa[abc] at step 10: .* nats.*monitor\.action=warn", said)
    rows, said = trained(small_corpus, tmp_path, monitor=monitor | {"action": "warn"}, **leaky)
    assert said == ""
    assert any(problem.startswith("leakage of qa") for row in rows for problem in row.get("problems", []))
    assert max(value["leakage"] for value in rows[-1]["probe"].values()) > 0.01
    assert committed(tmp_path) == [10, 15]


def test_groups_of_all_languages_and_layer_norm_train(small_corpus: Artifact, tmp_path: Path) -> None:
    rows, said = trained(small_corpus, tmp_path, mixed_groups=True, norm="layer", bank={"size": 0})
    training = [row for row in rows if "probe" not in row]
    assert said == ""
    assert training[-1]["contrastive"] < training[0]["contrastive"]
    assert all(abs(value["leakage"]) < 1e-4 for row in rows for value in row.get("probe", {}).values())


def test_the_gap_and_age_of_keys_are_those_of_groups_that_met_some(small_corpus: Artifact, tmp_path: Path) -> None:
    """Three languages, two groups a step, keys one step old at most: often a group meets no key of its language."""
    bank = {"size": 64, "warmup_steps": 0, "max_age": 1}
    rows, said = trained(small_corpus, tmp_path, bank=bank)
    training = [row for row in rows if "probe" not in row]
    assert said == ""
    assert any(0 < row["bank_groups"] < 1 for row in training)
    assert {row["bank_age"] for row in training if row["bank_groups"]} == {1.0}


def _drained(rank: int, world: int, corpus: str, output: str) -> list[tuple[str, list[int]]]:
    """What was told, each with the checkpoints that counted at that moment. Ray says at once that it takes a node."""
    told: list[tuple[str, list[int]]] = []
    settings = configured(steps=5, resources={"checkpoint_every": 5})
    tell = lambda line: told.append((line, committed(Path(output))))  # noqa: E731
    run = loop(corpus, output, settings, draining=lambda: True, tell=tell)
    run.notices.every_s = 0.0
    run.run(lambda _: None)
    return told


def test_a_node_is_given_up_only_when_the_checkpoint_counts(small_corpus: Artifact, tmp_path: Path) -> None:
    for told in run_ranks(2, _drained, small_corpus.uri, str(tmp_path)):
        expected = [("Ray is about to take a node; the checkpoint of step 1 is complete", [1])]
        assert told in (expected, [])  # rank 0 says it
    assert committed(tmp_path) == [1, 5]


def _spoiled(rank: int, world: int, corpus: str, output: str) -> str:
    """The error of a run in which another rank's bank has one other bit from step 3 on."""
    run = loop(corpus, output, configured(steps=8, resources={"checkpoint_every": 2}))
    advance = run._advance

    def spoil(step: int) -> Any:
        if step == 2 and rank == 1:
            run.step.banks.keys_LKD[0, 0, 0] += 1
        return advance(step)

    run._advance = spoil
    try:
        run.run(lambda _: None)
    except CcpError as error:
        return str(error)
    return ""


def test_ranks_whose_banks_differ_leave_the_checkpoint_before(small_corpus: Artifact, tmp_path: Path) -> None:
    first, second = run_ranks(2, _spoiled, small_corpus.uri, str(tmp_path))
    assert first == second
    assert first.startswith("the ranks' banks differ")
    assert committed(tmp_path) == [2]
