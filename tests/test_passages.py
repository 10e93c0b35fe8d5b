"""Passages in the formats of Mr.TyDi and DPR: what the readers make of them, from any byte range."""

from __future__ import annotations

import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.documents import find_documents, plan_splits
from ccp_ray.lines import SourceFile
from ccp_ray.passages import joined, parse_passage, tsv_line
from ccp_ray.records import BadRow, Record, read_split

FIELD = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\t\0"), max_size=30)


def read(uri, split_bytes=1 << 20):
    splits = plan_splits(find_documents([str(uri)]), split_bytes)
    return [row for split in splits for row in read_split(split, ("id", "text"))]


@given(st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=5))
def test_lines_are_read_as_pythons_csv_module_reads_the_file(rows):
    lines = [tsv_line(*row) for row in rows]
    expected = [row for row in csv.reader(lines, delimiter="\t") if row[0] != "id"]
    found = [fields for line in lines if (fields := parse_passage(line.rstrip("\n"))) is not None]
    assert [[f["id"], f["text"], f["title"]] for f in found] == expected
    assert expected == [list(row) for row in rows if row[0] != "id"]


def test_dprs_file_with_header_and_quoting(tmp_path):
    text = 'id\ttext\ttitle\n1\t"Aaron (""Ahar"") said"\tAaron\n2\tplain\tB "C"\n'
    tmp_path.joinpath("p.tsv").write_text(text)
    rows = read(tmp_path / "p.tsv")
    assert [(r.id, r.text, r.title, r.lang) for r in rows] == [
        ("1", 'Aaron ("Ahar") said', "Aaron", "und"),
        ("2", "plain", 'B "C"', "und"),
    ]
    tmp_path.joinpath("p.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert [r._replace(source="") for r in read(tmp_path / "p.tsv.gz")] == [r._replace(source="") for r in rows]


@pytest.mark.parametrize("split_bytes", [1, 7, 64, 1000])
def test_byte_ranges_of_a_tsv_give_every_passage_once(tmp_path, split_bytes):
    lines = ["id\ttext\ttitle\n", *(tsv_line(str(i), f'word "{i}" ' * (i % 5 + 1), f"T{i}") for i in range(40))]
    tmp_path.joinpath("p.tsv").write_text("".join(lines))
    rows = read(tmp_path / "p.tsv", split_bytes)
    assert [row.id for row in rows] == [str(i) for i in range(40)]
    assert all(isinstance(row, Record) for row in rows)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\twhat is it?", "2 columns, expected three, parted by tabs: id, text, title"),
        ("alone", "1 column, expected three"),
        ("a\tb\tc\td", "4 columns"),
        ('1\t"open\tT', "a quoted field does not end on its line"),
        ("1\t\tT", '"text" is empty'),
        ("\tx\tT", '"id" is empty'),
    ],
)
def test_a_line_that_is_no_passage_is_put_aside_with_its_place(tmp_path, line, reason):
    tmp_path.joinpath("p.tsv").write_text(f"1\ta\tT\n{line}\n3\tc\tT\n")
    first, bad, last = read(tmp_path / "p.tsv")
    assert (first.id, last.id) == ("1", "3")
    assert isinstance(bad, BadRow)
    assert bad.row == "line 2"
    assert reason in bad.reason
    assert bad.sample == line.rstrip("\r")


def test_mr_tydis_contents_are_the_text_as_they_are(tmp_path):
    rows = [{"id": "15607#5", "contents": "Title\n\nSome text"}, {"id": "1", "text": "own", "contents": "other"}]
    tmp_path.joinpath("docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "2"}]))
    first, second, bad = read(tmp_path)
    assert (first.id, first.text, first.title) == ("15607#5", "Title\n\nSome text", None)
    assert second.text == "own"
    assert bad.reason == 'no "text"'


def test_title_and_text_are_joined_as_mr_tydi_joins_them():
    assert joined("T", "x") == "T\n\nx"
    assert joined("", "x") == joined(None, "x") == "x"


def test_packed_and_plain_tsv_are_planned_as_lines():
    files = [SourceFile(uri=f"/p.tsv{end}", name=f"p.tsv{end}", bytes=10) for end in ("", ".gz")]
    plain, packed = plan_splits(files[:1], 4), plan_splits(files[1:], 4)
    assert [(s.format, s.start, s.end) for s in plain] == [("tsv", 0, 4), ("tsv", 4, 8), ("tsv", 8, 10)]
    assert [(s.format, s.end) for s in packed] == [("tsv", None)]
