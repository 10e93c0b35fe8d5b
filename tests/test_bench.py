"""The bench's table and medians; the measuring itself is `make bench`."""

from __future__ import annotations

from jobs import bench


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
