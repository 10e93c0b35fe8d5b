"""The loop of one worker on a real corpus: each problem the monitor names stops it, and leaves the last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from small_recipe import configured

from ccp_ray.artifact import Artifact
from ccp_ray.corpus import Corpus
from ccp_ray.errors import TrainingError
from ccp_ray.pretrain_config import PretrainConfig

pytestmark = pytest.mark.timeout(300)

# Vectors that no encoder made, from the first step on: the loss falls by telling them from real ones.
_FOREIGN_KEYS = {"size": 300, "fill": "random", "warmup_steps": 0, "max_age": None}
STOPS = {
    "staleness shortcut at step 10: gap": {"bank": _FOREIGN_KEYS},
    "divergence at step 10: loss": {"temperature": 0.004},  # so sharp that a wrong neighbour costs more than guessing
    "collapse of q": {"monitor": {"collapsed_share": 5.0}},  # of its best: no spread is five times its own
    "leakage of q": {"norm": "symmetric", "monitor": {"pairs": 64, "leak": 0.01}},
}


def _train(rank: int, world: int, corpus: str, output: str, config: str) -> tuple[list[dict[str, Any]], str]:
    """Metrics rows, and what stopped it."""
    from ccp_ray.encoder import load_trainable
    from ccp_ray.pretrain import Pretraining

    settings = PretrainConfig.model_validate_json(config)
    opened = Corpus.open(corpus)
    with_mlm = settings.mlm.weight > 0
    encoder = load_trainable(None, settings.encoder, opened.tokenizer_folder(Path(output)), with_mlm, settings.seed)
    run = Pretraining(settings, opened, encoder, output)
    try:
        run.run(lambda _: None)
    except TrainingError as error:
        return run.rows, str(error)
    return run.rows, ""


def trained(corpus: Artifact, output: Path, **changes: Any) -> tuple[list[dict[str, Any]], str]:
    monitor = {"every": 10, "pairs": 8, "action": "stop"} | changes.pop("monitor", {})
    config = configured(monitor=monitor, steps=20, **changes)
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
    assert [path.stem for path in (tmp_path / "_ledger/checkpoints").iterdir()] == ["step-000000005"]


def test_a_healthy_run_is_not_stopped_and_says_how_often_each_language_was_gone_through(
    small_corpus: Artifact, tmp_path: Path
) -> None:
    rows, said = trained(small_corpus, tmp_path, pairs_per_group=64, bank={"size": 64, "warmup_steps": 10})
    assert said == ""
    last = rows[-1]["probe"]
    assert sum(values["epochs"] for values in last.values()) == pytest.approx(20 * 2 * 64 / 300)  # 300 sentences each
    assert min(values["epochs"] for values in last.values()) > 1  # all ran dry, and began again
    assert all(values["epochs"] == 0 for values in rows[0]["probe"].values())


def test_the_gap_and_age_of_keys_are_those_of_groups_that_met_some(small_corpus: Artifact, tmp_path: Path) -> None:
    """Three languages, two groups a step, keys one step old at most: often a group meets no key of its language."""
    bank = {"size": 64, "warmup_steps": 0, "max_age": 1}
    rows, said = trained(small_corpus, tmp_path, bank=bank)
    training = [row for row in rows if "probe" not in row]
    assert said == ""
    assert any(0 < row["bank_groups"] < 1 for row in training)
    assert {row["bank_age"] for row in training if row["bank_groups"]} == {1.0}
