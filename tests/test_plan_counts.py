"""What plans count in files: rows, questions, passages; exactly in small ones, nearly in large ones."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pair_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccp_ray.documents import find_documents, plan_splits
from ccp_ray.errors import DataError, UsageError
from ccp_ray.pair_sources import SourceConfig
from ccp_ray.records import read_split
from jobs import question_counts, row_counts
from jobs.question_counts import count_questions
from jobs.row_counts import count_rows


def texts(count: int) -> list[dict[str, str]]:
    """Of letters that do not pack well."""
    rng = random.Random(0)
    return [{"id": f"{i}", "text": "".join(rng.choices("abcdefghijklmnop qrstuv", k=300))} for i in range(count)]


def read_rows(uri: str) -> int:
    """As `embed` reads them."""
    return sum(1 for split in plan_splits(find_documents([uri])) for _ in read_split(split, ("id", "text")))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "rows.tsv", "cut.jsonl"])
def test_rows_of_small_files_are_those_that_are_read(name: str, tmp_path: Path) -> None:
    rows, path = texts(57), tmp_path / name
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".tsv"):
        path.write_text("id\ttext\ttitle\n" + "".join(f"{row['id']}\t{row['text']}\tT\n" for row in rows))
    else:
        path.write_text(lines.rstrip("\n") if name.startswith("cut") else lines)
    found = count_rows(str(path))
    assert (found.rows, found.exact) == (57, True) == (read_rows(str(path)), True)
    if "jsonl" in name:
        assert found.bytes == pytest.approx(len(lines), abs=1)


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_large_files_are_taken_from_their_first_part(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is for all files together: of four about one and a half are read."""
    write = gzip.compress if packed else bytes
    lines = "".join(f"{json.dumps(row)}\n" for row in texts(2000)).encode()
    for part in range(4):
        (tmp_path / f"{part}.jsonl{'.gz' if packed else ''}").write_bytes(write(lines))
    size = (tmp_path / f"0.jsonl{'.gz' if packed else ''}").stat().st_size
    monkeypatch.setattr(row_counts, "READ_BYTES", int(1.6 * size))
    monkeypatch.setattr(row_counts, "_LEAST", 1000)
    monkeypatch.setattr("ccp_ray.lines.CHUNK", 1 << 12)  # what is lost where a packed file is cut
    read = []
    whole = row_counts.head
    monkeypatch.setattr(row_counts, "head", lambda file, stored: read.append(stored) or whole(file, stored))
    found = count_rows(str(tmp_path))
    assert read == [size, int(1.6 * size) - size]
    assert not found.exact
    assert found.told.startswith("about ")
    assert found.rows == pytest.approx(8000, rel=0.02)
    assert found.bytes / found.rows == pytest.approx(len(lines) / 2000, rel=0.01)


def test_what_cannot_be_counted_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        count_rows(str(tmp_path / "nowhere"))
    (tmp_path / "x.jsonl.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match=r"x\.jsonl\.gz: damaged or cut-off compressed file"):
        count_rows(str(tmp_path / "x.jsonl.gz"))
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"x\.parquet: damaged parquet file"):
        count_rows(str(tmp_path / "x.parquet"))


def test_questions_of_small_files_are_those_that_the_run_will_have(tmp_path: Path) -> None:
    rows = pair_files.rows(30, negatives=4)
    source = SourceConfig(file=pair_files.write_dpr(tmp_path / "train.json", rows))
    data = pair_files.tiny_pairs(str(tmp_path / "data"), rows, negatives=2)
    found = count_questions([source], 2)
    assert (found.questions, found.passages, found.exact) == (data.questions, data.passages, True)
    assert found.question_bytes * 30 == sum(len(row["question"]) for row in rows)
    named = [
        len(f"{p['title']}\n\n{p['text']}") for r in rows for p in r["positive_ctxs"] + r["hard_negative_ctxs"][:2]
    ]
    assert found.passage_bytes == pytest.approx(sum(named) / len(named))
    assert found.question_tokens(most=3) == 3 < found.question_tokens(most=99)


@pytest.mark.parametrize("form", ["array", "lines", "tevatron"])
def test_questions_of_large_files_are_counted_by_a_field_that_each_row_has(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pair_files.rows(900, negatives=3)
    if form == "tevatron":
        rows = [
            {"query_id": r["id"], "query": r["question"], "positive_passages": r["positive_ctxs"]}
            | {"negative_passages": r["hard_negative_ctxs"]}
            for r in rows
        ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(rows, indent=1) if form == "array" else "\n".join(map(json.dumps, rows)))
    exact = count_questions([SourceConfig(file=str(path))], 2)
    assert exact.questions == 900
    for module in (row_counts, question_counts):
        monkeypatch.setattr(module, "READ_BYTES", path.stat().st_size // 2)
    found = count_questions([SourceConfig(file=str(path))], 2)
    assert not found.exact
    assert found.questions == pytest.approx(900, rel=0.01)
    assert found.passage_bytes == pytest.approx(exact.passage_bytes, rel=0.05)


def test_questions_with_answers_alone_are_counted_where_passages_are_looked_for(tmp_path: Path) -> None:
    row = {"id": "1", "question": "wer?", "answers": ["me"], "lang": "de"}
    (tmp_path / "xor.jsonl").write_text("\n".join(map(json.dumps, [row] * 3)))
    source = SourceConfig(file=str(tmp_path / "xor.jsonl"))
    found = count_questions([source], 0, answers_suffice=True)
    assert (found.questions, found.passages, found.question_bytes) == (3, 0, 4)
    with pytest.raises(DataError, match="no question that could be used"):
        count_questions([source], 0)


def test_questions_of_several_sources_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "topics.tsv").write_text("1\twho?\n2\twhere is it?\n")
    (tmp_path / "qrels.txt").write_text("1 Q0 a 1\n2 Q0 b 1\n")
    (tmp_path / "docs.jsonl").write_text("".join(f'{{"id": "{c}", "contents": "T\\n\\n{c * 9}"}}\n' for c in "abc"))
    judged = SourceConfig(**{name: str(next(tmp_path.glob(f"{name}.*"))) for name in ("topics", "qrels", "docs")})
    dpr = SourceConfig(file=pair_files.write_dpr(tmp_path / "train.json", pair_files.rows(6)))
    both = count_questions([judged, dpr], 1)
    assert both.questions == 2 + 6
    assert both.question_bytes * 8 == pytest.approx(4 + 12 + 6 * count_questions([dpr], 1).question_bytes)
    with pytest.raises(UsageError, match="nowhere: no such file"):
        count_questions([SourceConfig(file=str(tmp_path / "nowhere"))], 1)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no question that could be used"):
        count_questions([SourceConfig(file=str(tmp_path / "empty.jsonl"))], 1)
