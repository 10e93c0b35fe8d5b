"""Published values: what the file says, and that a slip in it is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ccp_ray.errors import UsageError
from eval.published import PUBLISHED, load_published


def tables() -> list[dict]:
    return yaml.safe_load(PUBLISHED.read_text())["tables"]


def test_the_papers_table_is_there_whole():
    published = load_published()
    recall = next(t for t in published.tables if (t.benchmark, t.metric) == ("mrtydi", "recall@100"))
    assert recall.split == "test"
    rows = {row.system: row for row in recall.rows}
    averages = {"mBERT": 63.1, "LaBSE": 78.2, "XLM-R": 79.8, "InfoXLM": 80.2, "CCP": 81.8}
    assert {name: rows[name].average for name in averages} == averages
    assert all(len(rows[name].values) == 11 for name in averages)
    assert rows["CCP"].fraction("sw") == pytest.approx(0.751)
    assert rows["mDPR"].fraction("sw") is None
    assert rows["CCP"].mean_over(["ar", "bn"]) == pytest.approx((0.820 + 0.883) / 2)
    assert rows["CCP"].mean_over(["ar", "xx"]) is None
    assert rows["CCP"].mean_over([]) is None
    assert recall.row(["nobody", "LaBSE", "CCP"]) is rows["LaBSE"]
    assert recall.row(["nobody"]) is None


@pytest.mark.parametrize(
    ("benchmark", "metric", "system", "value"),
    [
        ("mrtydi", "mrr@100", "BM25 (tuned)", 33.3),
        ("mrtydi", "recall@100", "BM25 (tuned)", 75.8),
        ("mrtydi", "mrr@100", "mContriever (MS MARCO, Mr. TyDi)", 65.2),
        ("tatoeba", "mean", "LaBSE", 95.2),
        ("tatoeba", "mean", "mE5-small", 86.9),
        ("xor_retrieve", "r@2kt", "DrDecr", 71.4),
        ("xor_retrieve", "r@5kt", "PrimeQA ColBERT", 68.9),
    ],
)
def test_values_of_others(benchmark: str, metric: str, system: str, value: float):
    table = next(t for t in load_published().tables if (t.benchmark, t.metric) == (benchmark, metric))
    row = table.row([system])
    assert row is not None
    assert row.average == value


def test_every_row_says_its_setting_and_source():
    for table in load_published().tables:
        for row in table.rows:
            assert len(row.setting) > 5
            assert len(row.source) > 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["rows"][6]["values"].update(sw=57.1), "average 81.8 is not 80.16"),
        (lambda t: t["rows"][6]["values"].pop("sw"), "differ in sw"),
        (lambda t: t["rows"].append(t["rows"][0]), "stands twice"),
        (lambda t: t.pop("languages"), "either languages or average_of"),
        (lambda t: t.update(average_of="36"), "either languages or average_of"),
        (lambda t: t["rows"][0].pop("source"), "tables.0.rows.0.source"),
        (lambda t: t.update(metirc="x"), "did you mean 'metric'"),
        (lambda t: t["rows"][0].update(average=758), "less than or equal to 100"),
    ],
)
def test_a_slip_of_the_pen_is_an_error(change, words: str, tmp_path: Path):
    found = tables()
    change(found[0])
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump({"tables": found}))
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        load_published(str(file))


def test_an_unknown_row_is_refused_with_the_nearest():
    published = load_published()
    published.require(["CCP", "LaBSE"])
    with pytest.raises(UsageError, match="no published row 'InfoXML'; did you mean 'InfoXLM'"):
        published.require(["CCP", "InfoXML"])
