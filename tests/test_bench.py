"""The bench's tables, medians and file of results; what it measures is in test_bench_parts.py."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from ccp_ray.errors import DataError
from ccp_ray.pretrain_config import PretrainConfig
from jobs.benches import results, stages
from jobs.benches.figures import Figure, figure_table, interleaved, median, median_ratio, report
from jobs.benches.results import file_name, keep, machine, widest_vectors
from jobs.benches.scaling import worker_chart, worker_counts
from jobs.benches.texts import bench_texts
from jobs.benches.training import bank_bytes, generated_documents, summary, training_table
from jobs.benches.watching import watching_seconds


def row(stage: str, seconds: float, tokens_per_s: float | None) -> dict:
    figures = {"rows_per_s": None, "padding_efficiency": 0.9, "peak_memory_bytes": 2_500_000_000}
    return {"stage": stage, "seconds": seconds, "tokens_per_s": tokens_per_s} | figures


def test_medians_are_by_stage_and_figure() -> None:
    rounds = [[row("corpus", s, None), row("encoder", 10 * s, 100 * s)] for s in (3.0, 1.0, 2.0)]
    medians = stages._medians(rounds)
    assert medians["corpus"]["seconds"] == 2.0
    assert medians["corpus"]["tokens_per_s"] is None
    assert medians["encoder"]["tokens_per_s"] == 200.0


def test_the_table_is_aligned_and_says_what_was_not_measured() -> None:
    medians = stages._medians([[row("corpus", 2.0, None), row("encoder", 90.0, 51234.5)]])
    lines = stages.stages_table(medians).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "51,234" in lines[2]
    assert "2.5 GB" in lines[2]
    assert lines[1].split()[-4:-2] == ["-", "0.900"]


def test_the_machine_has_a_name() -> None:
    found = machine()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert file_name(found).endswith(f"{found['cores']}-cores")


def test_processors_of_one_name_and_other_vector_units_keep_their_own_files() -> None:
    flags = [["sse2", "avx2"], ["avx2", "avx512f", "avx512_bf16"], ["sse2"]]
    machines = [{"cpu": "AMD EPYC", "vectors": widest_vectors(each), "cores": 2} for each in flags]
    names = ["amd-epyc-avx2-2-cores", "amd-epyc-avx512-bf16-2-cores", "amd-epyc-2-cores"]
    assert [file_name(each) for each in machines] == names


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
    text = training_table(found | {"pairs_per_step": 64, "bank_bytes": bank_bytes(), "watching": 0.018})
    assert "what watching adds (clock, loss by language): 18000 µs a step, 0.20 % of the full job, at most 1 %" in text
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


def test_a_figure_says_what_was_asked_of_it_and_whether_it_is_met() -> None:
    part = report(
        [
            Figure("ours / theirs", 1.3, at_least=1.3),
            Figure("restart", 5.01, "s", at_most=5),
            Figure("rate", 51234.5, "texts/s"),
            Figure("cosine", 0.99991, at_least=0.9999),
        ],
        notes=["nothing else"],
    )
    assert [each["met"] for each in part["figures"]] == [True, False, None, True]
    assert part["load"] >= 0
    lines = figure_table("embed", part).splitlines()
    assert lines[0].split() == ["embed", "measured", "asked", "for"]
    assert lines[1].split() == ["ours", "/", "theirs", "1.3", "at", "least", "1.3", "met"]
    assert lines[2].split() == ["restart", "5.01", "s", "at", "most", "5", "NOT", "MET"]
    assert lines[3].split() == ["rate", "51,234", "texts/s"]
    assert lines[4].split() == ["cosine", "0.999910", "at", "least", "0.9999", "met"]
    assert lines[5] == "  nothing else"
    assert {line.index("at ") for line in lines[1:3]} == {lines[0].index("asked")}


def test_contenders_take_turns_and_ratios_are_within_a_round() -> None:
    calls: list[str] = []
    slow = iter((1.0, 1.0, 10.0, 10.0, 2.0, 3.0))

    def contender(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds * next(slow)

    both = {"a": lambda: contender("a", 2.0), "b": lambda: contender("b", 1.0)}
    measured = interleaved(both, 3, "test")
    assert calls == ["a", "b"] * 3
    assert median(measured, "a") == 4.0
    assert median_ratio(measured, "a", "b") == 2.0  # of 2, 2 and 4/3; the medians' own ratio is 4/3


def test_keeping_merges_by_part_and_by_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        results, "machine", lambda: {"cpu": "A CPU (TM) 9", "vectors": None, "cores": 2, "memory": "1 GiB"}
    )
    first = keep({"medians": {"corpus": 1}, "training": {"date": "then"}}, tmp_path)
    assert first.name == "a-cpu-tm-9-2-cores.json"
    keep({"embed": {"encode": {"date": "1"}, "restart": {"date": "1"}}}, tmp_path)
    keep({"embed": {"restart": {"date": "2"}}, "training": {"date": "now"}}, tmp_path)
    kept = json.loads(first.read_text())
    assert kept["medians"] == {"corpus": 1}
    assert kept["training"] == {"date": "now"}
    assert kept["embed"] == {"encode": {"date": "1"}, "restart": {"date": "2"}}
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_rates_over_workers_come_with_a_chart(tmp_path: Path) -> None:
    file = keep({"embed": {"workers": {"rates": {"1": 100.0, "2": 190.0, "4": 350.0}}}}, tmp_path)
    chart = file.with_name(f"{file.stem}-workers.svg")
    root = ElementTree.parse(chart).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "measured from 100 to 350" in root.attrib["aria-label"]
    assert "as many times one worker from 100 to 400" in root.attrib["aria-label"]
    assert worker_chart({"1": 100.0}).startswith("<svg")  # one core


def test_workers_double_up_to_the_cores() -> None:
    assert [worker_counts(cores) for cores in (1, 2, 3, 8, 12)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 12],
    ]


def test_text_that_is_too_short_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "en.jsonl"
    file.write_text(json.dumps({"id": "a", "lang": "en", "text": "One cat.\n!!!\nTwo dogs. Three birds."}) + "\n")
    found = bench_texts([str(file)], 5, tmp_path)
    assert found.texts == ["One cat.", "Two dogs.", "Three birds.", "One cat.", "Two dogs."]
    assert found.describe([str(file)]) == {"text": ["en.jsonl"], "texts": 5, "distinct": 3}
    assert bench_texts([str(file)], 2, tmp_path).describe([])["distinct"] == 2
    file.write_text(json.dumps({"id": "a", "lang": "en", "text": "!!!"}) + "\n")
    with pytest.raises(DataError, match="no sentence to encode"):
        bench_texts([str(file)], 5, tmp_path)


def test_what_watching_adds_to_a_step_is_measured() -> None:
    config = PretrainConfig(groups_per_step=8)
    seconds = watching_seconds(config, ["de", "en", "fr"], torch.device("cpu"))
    assert seconds > 0
