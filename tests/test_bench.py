"""The bench's table and medians; the measuring itself is `make bench`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from jobs import bench
from jobs.bench_training import bank_bytes, generated_documents, summary, training_table


def row(stage: str, seconds: float, tokens_per_s: float | None) -> dict:
    figures = {"rows_per_s": None, "padding_efficiency": 0.9, "peak_memory_bytes": 2_500_000_000}
    return {"stage": stage, "seconds": seconds, "tokens_per_s": tokens_per_s} | figures


def test_medians_are_by_stage_and_figure() -> None:
    rounds = [[row("corpus", s, None), row("encoder", 10 * s, 100 * s)] for s in (3.0, 1.0, 2.0)]
    medians = bench._medians(rounds)
    assert medians["corpus"]["seconds"] == 2.0
    assert medians["corpus"]["tokens_per_s"] is None
    assert medians["encoder"]["tokens_per_s"] == 200.0


def test_the_table_is_aligned_and_says_what_was_not_measured() -> None:
    lines = bench.table(bench._medians([[row("corpus", 2.0, None), row("encoder", 90.0, 51234.5)]])).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "51,234" in lines[2]
    assert "2.5 GB" in lines[2]
    assert lines[1].split()[-4:-2] == ["-", "0.900"]


def test_the_machine_has_a_name() -> None:
    found = bench.machine()
    assert found["cpu"]
    assert found["cores"] >= 1


def training_round(slow: float) -> dict:
    """A machine that is `slow` times as slow in this round, for all alike."""
    seconds = {"full job": 1.0, "bare loop": 0.8, "sentence-transformers": 2.0, "sync": 0.01}
    return {name: {"clock": slow * each, "cpu": each} for name, each in seconds.items()}


def test_ratios_are_of_steps_in_the_same_round() -> None:
    found = summary([training_round(slow) for slow in (1, 1, 9, 30, 40)])
    assert found["seconds"]["full job"] == {"clock": 9.0, "cpu": 1.0}
    ratios = {name: round(each["clock"], 6) for name, each in found["ratios"].items()}
    assert ratios == {"full job / bare loop": 1.25, "sync / full job": 0.01, "sentence-transformers / full job": 2.0}
    found["ratios"]["sync / full job, 2 workers"] = {"clock": 0.021, "cpu": 0.012}
    text = training_table(found | {"pairs_per_step": 64, "bank_bytes": bank_bytes()})
    assert "1.250     1.250   at most 1.05" in text
    assert "sync / full job, 2 workers           0.021     0.012   at most 0.03" in text
    assert " 64.0" not in text.splitlines()[1]  # 64 pairs in 9 s
    assert " 7.1" in text.splitlines()[1]


def test_sharded_banks_shrink_with_the_workers() -> None:
    held = bank_bytes()
    for one, two in itertools.pairwise(held.values()):
        assert two * 2 == one
    assert held["1"] == 8 * 4096 * (4 * 256 + 16)


def test_generated_sentences_differ_in_length(tmp_path: Path) -> None:
    records = [json.loads(line) for line in Path(generated_documents(tmp_path)).read_text().splitlines()]
    lengths = np.array([len(part.split()) for record in records for part in record["text"].split(". ")])
    assert {record["lang"] for record in records} == {"qaa", "qab", "qac", "qad"}
    assert lengths.std() > 0.5 * lengths.mean()
