"""A node of a real cluster is killed under a training run."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clusters import json_of, node, started_cluster
from command_line import SmallRun
from ranks import wait_until
from small_recipe import RECIPE


@pytest.mark.timeout(900)
def test_elastic_workers_go_on_without_a_node_that_died(small_run: SmallRun, tmp_path: Path) -> None:
    """Three workers, one of them on a node that is killed: two go on from the last checkpoint."""
    config, output = tmp_path / "config.json", tmp_path / "encoder"
    small = {"groups_per_step": 6, "pairs_per_group": 8, "steps": 20, "log_every": 1}
    small |= {"bank": {"size": 32, "warmup_steps": 2, "placement": "sharded"}}
    small |= {"resources": {"workers": [1, 3], "checkpoint_every": 2}}
    config.write_text(json.dumps(RECIPE["pretrain"] | small))
    with (
        started_cluster() as cluster,
        node([f"--address={cluster.address}", "--num-cpus=1"], cluster.environment) as kill,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(cluster.run, "pretrain", small_run.corpus, "--output", output, "--config", config)
        assert wait_until(lambda: running.done() or any((output / "_ledger/checkpoints").glob("*.json")))
        kill()
        trained = running.result()
    assert json_of(trained)["measured"]["workers"] == 2
    assert "pretrain: 1 to 3 workers" in trained.stderr
    assert "pretrain: going on from the checkpoint of step" in trained.stderr
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))
