"""Finding, planning and reading documents: every format, every bad row, and byte ranges that lose nothing."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray import lines as line_reader
from ccp_ray.artifact import Output, Request, open_output
from ccp_ray.documents import find_documents, fingerprint, plan_splits
from ccp_ray.errors import DataError, UsageError
from ccp_ray.lines import SourceFile, pack_lines
from ccp_ray.records import BadRow, Record, Split, check_bad_rows, read_split
from ccp_ray.storage import split_uri

ROWS = [{"id": f"d{i}", "lang": "de", "text": f"Satz {i}. Übung.\nZeile."} for i in range(5)]


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_all(*inputs: str, split_bytes: int = 64 << 20, **options) -> list[Record | BadRow]:
    return [row for split in plan_splits(find_documents(inputs), split_bytes) for row in read_split(split, **options)]


def good(rows: list[Record | BadRow]) -> list[tuple[str, str, str]]:
    assert all(isinstance(row, Record) for row in rows), rows
    return [row[:3] for row in rows]


GZIPPED, ZSTANDARD = gzip.compress(lines(ROWS)), zstandard.ZstdCompressor().compress(lines(ROWS))
NO_LANGUAGE = pa.table({"id": ["1"], "text": ["x"]})
EXPECTED = [(row["id"], row["lang"], row["text"]) for row in ROWS]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.json.zst"])
def test_json_lines(tmp_path, name):
    data = lines(ROWS)
    if name.endswith(".gz"):
        data = gzip.compress(data[:40]) + gzip.compress(data[40:])  # two members, as appended files have
    if name.endswith(".zst"):
        packer = zstandard.ZstdCompressor()
        data = packer.compress(data[:40]) + packer.compress(data[40:])  # two frames
    (tmp_path / name).write_bytes(data)
    assert good(read_all(str(tmp_path / name))) == EXPECTED
    assert good(read_all(str(tmp_path))) == EXPECTED
    assert good(read_all(str(tmp_path / "*.json*"))) == EXPECTED


def test_byte_order_mark_carriage_returns_blank_lines_and_extra_keys(tmp_path):
    row = ROWS[0] | {"title": "T", "split": "dev", "source": {"any": ["thing"]}}
    data = b"\xef\xbb\xbf" + lines([row]).replace(b"\n", b"\r\n") + b"\n  \r\n" + lines(ROWS[1:]).rstrip(b"\n")
    (tmp_path / "a.jsonl").write_bytes(data)
    found = read_all(str(tmp_path / "a.jsonl"))
    assert good(found) == EXPECTED
    assert found[0] == Record("d0", "de", ROWS[0]["text"], "T", "dev", "a.jsonl", "line 1")
    assert found[1].row == "line 4"


def test_text_folders(tmp_path):
    for lang, name, text in [("de", "x", "Hallo."), ("fr", "x", "Bonjour."), ("fr", "y", "Salut.")]:
        (tmp_path / lang).mkdir(exist_ok=True)
        (tmp_path / lang / f"{name}.txt").write_text(text, encoding="utf-8")
    expected = [("x", "de", "Hallo."), ("x", "fr", "Bonjour."), ("y", "fr", "Salut.")]
    assert good(read_all(str(tmp_path))) == expected
    assert good(read_all(str(tmp_path / "fr"))) == expected[1:]
    assert good(read_all(str(tmp_path / "fr" / "y.txt"))) == expected[2:]
    assert good(read_all(str(tmp_path / "*" / "x.txt"))) == expected[:2]


def test_many_text_files_share_a_split(tmp_path):
    files = [SourceFile(uri=f"/x/de/{i}.txt", name=f"de/{i}.txt", bytes=10) for i in range(2500)]
    assert [len(split.files) for split in plan_splits(files)] == [1000, 1000, 500]
    large = [file.model_copy(update={"bytes": 5 << 20}) for file in files[:3]]
    assert [len(split.files) for split in plan_splits(large)] == [1, 1, 1]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_by_row_groups(tmp_path, text):
    rows = [{"id": f"d{i}", "lang": "de", "text": f"Satz {i} " + "x" * 50, "other": i} for i in range(100)]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(2, "text", table["text"].cast(text))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, compression="none")
    files = find_documents([str(tmp_path)])
    splits = plan_splits(files, split_bytes=1000)
    assert len(splits) > 3
    found = [row for split in splits for row in read_split(split)]
    assert good(found) == [(row["id"], "de", row["text"]) for row in rows]
    assert [row.row for row in found] == [f"row {i}" for i in range(100)]


def test_optional_language(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"id": "1", "text": "a"}, {"id": "2", "text": "b", "lang": "de"}]))
    pq.write_table(pa.table({"id": ["3"], "text": ["c"]}), tmp_path / "b.parquet")
    found = read_all(str(tmp_path), required=("id", "text"))
    assert good(found) == [("1", "und", "a"), ("2", "de", "b"), ("3", "und", "c")]


BAD = {
    b'{"id": "1", "lang": "de", "text": ': "not JSON",
    b'{"id": "1", "lang": "de", "text": "\xff"}': "not UTF-8",
    b'{"lang": "de", "text": "x"}': 'no "id"',
    b'{"id": "1", "lang": "de"}': 'no "text"',
    b'{"id": "1", "text": "x"}': 'no "lang"',
    b'{"id": "1", "lang": null, "text": "x"}': 'no "lang"',
    b'{"id": 1, "lang": "de", "text": "x"}': '"id" is int',
    b'{"id": "1", "lang": "de", "text": ["x"]}': '"text" is list',
    b'{"id": "1", "lang": "de", "text": " "}': '"text" is empty',
    b'{"id": "", "lang": "de", "text": "x"}': '"id" is empty',
    b'{"id": "1", "lang": "../de", "text": "x"}': '"lang" is',
    b'{"id": "1", "lang": "de", "text": "x", "split": "test"}': '"split" is',
    b'{"id": "1", "lang": "de", "text": "x", "title": 3}': '"title" is int',
    b'{"id": "1", "lang": "de", "text": "\\ud800"}': "surrogate",
    b'["a"]': "a JSON list",
    b'{"id": ' + b"9" * 5000 + b"}": "not JSON that can be read",
    b'{"a": ' * 100_000: "not JSON that can be read",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=list(BAD.values()))
def test_bad_json_rows_are_set_aside_with_place_and_reason(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[:2]) + line + b"\n" + lines(ROWS[2:]))
    found = read_all(str(tmp_path))
    bad = found.pop(2)
    assert isinstance(bad, BadRow)
    assert (bad.source, bad.row) == ("a.jsonl", "line 3")
    assert reason in bad.reason
    assert bad.sample == line.decode("utf-8", "replace")[:200]
    assert good(found) == EXPECTED


def test_bad_parquet_rows(tmp_path):
    text = pa.array([b"gut", b"\xff\xfe", None, b"auch"], pa.binary()).view(pa.string())
    table = pa.table({"id": ["0", "1", "2", None], "lang": ["de"] * 4, "text": text})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_all(str(tmp_path))
    assert [type(row) for row in found] == [Record, BadRow, BadRow, BadRow]
    assert [row.reason for row in found[1:]] == ['"text" is not UTF-8 text', 'no "text"', 'no "id"']
    assert [row.row for row in found[1:]] == ["row 1", "row 2", "row 3"]


def test_bad_text_file(tmp_path):
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "a.txt").write_bytes(b"gut \xff")
    (tmp_path / "de" / "b.txt").write_bytes(b" \n")
    bad = read_all(str(tmp_path))
    assert [row.reason for row in bad] == ["not UTF-8 (byte 4)", '"text" is empty']


def test_a_line_beyond_the_limit_is_a_bad_row_and_the_next_is_read(tmp_path):
    long = lines([ROWS[0] | {"text": "x" * 5000}])
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[:1]) + long + lines(ROWS[1:]))
    with (
        mock.patch("ccp_ray.records.ROW_LIMIT", 1000),
        mock.patch.object(line_reader, "ROW_LIMIT", 1000),
        mock.patch.object(line_reader, "CHUNK", 64 * 64),
    ):
        found = read_all(str(tmp_path))
    assert "longer than" in found.pop(1).reason
    assert good(found) == EXPECTED


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), max_size=30),
    split_bytes=st.integers(1, 300),
    chunk=st.integers(64, 400),
    final_line_end=st.booleans(),
)
def test_byte_ranges_give_every_row_once(sizes, split_bytes, chunk, final_line_end):
    rows = [{"id": f"{i}", "lang": "de", "text": "ü" * (size + 1)} for i, size in enumerate(sizes)]
    data = b"".join(lines([row]) if size % 7 else b"\n" + lines([row]) for row, size in zip(rows, sizes, strict=True))
    data = data if final_line_end else data.rstrip(b"\n")
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(line_reader, "CHUNK", chunk):
        path = Path(folder, "a.jsonl")
        path.write_bytes(data)
        file = SourceFile(uri=str(path), name="a.jsonl", bytes=len(data))
        found = [row for split in plan_splits([file], split_bytes) for row in read_split(split)]
    assert good(found) == [(row["id"], "de", row["text"]) for row in rows]


def test_a_byte_range_says_at_which_byte_a_bad_row_starts(tmp_path):
    data = lines(ROWS) + b"{broken\n"
    (tmp_path / "a.jsonl").write_bytes(data)
    (bad,) = [row for row in read_all(str(tmp_path), split_bytes=100) if isinstance(row, BadRow)]
    assert bad.row == f"byte {data.index(b'{broken')}"


def test_a_split_reads_little_beyond_its_range(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS * 50_000))
    split = plan_splits(find_documents([str(tmp_path)]), 1 << 20)[1]
    asked: list[int] = []
    read = split_uri(split.files[0].uri)[0].read

    def spy(self, key, start=0, length=None):
        asked.append(length)
        return read(key, start, length)

    with mock.patch("ccp_ray.storage.LocalStore.read", spy):
        assert sum(1 for _ in read_split(split)) > 1000
    assert sum(asked) <= (1 << 20) + 1 + line_reader.CHUNK // 64


def test_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "de").mkdir(parents=True)
        (tmp_path / name / "de" / "x.txt").write_text("Hallo." * 50_000)
    marks = [fingerprint(find_documents([str(tmp_path / name)])) for name in ("a", "b")]
    assert marks[0] == marks[1]
    (tmp_path / "b" / "de" / "x.txt").write_text("Hallo." * 49_999 + "Hallo!")
    assert fingerprint(find_documents([str(tmp_path / "b")])) != marks[0]
    (tmp_path / "a" / "de" / "x.txt").rename(tmp_path / "a" / "de" / "y.txt")
    assert fingerprint(find_documents([str(tmp_path / "a")])) != marks[0]


def test_a_file_named_twice_counts_once_and_equal_names_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "de.jsonl").write_bytes(lines(ROWS[:1]))
    files = find_documents([str(tmp_path / "a"), str(tmp_path / "a/de.jsonl"), str(tmp_path / "b")])
    assert [file.name for file in files] == ["2/de.jsonl", "de.jsonl"]


@pytest.mark.parametrize(
    ("make", "word", "error"),
    [
        (lambda path: path / "none.jsonl", "no such file", UsageError),
        (lambda path: path / "*.parquet", "no such file", UsageError),
        (lambda path: path.joinpath("a.csv").write_text("x") and path / "a.csv", "unknown format", UsageError),
        (lambda path: path.joinpath("a.csv").write_text("x") and path, "unknown format", UsageError),
        (lambda path: path.joinpath("a.jsonl").touch() or path / "a.jsonl", "empty", DataError),
        (lambda path: path.joinpath("a.jsonl.gz").write_bytes(b"no gzip") and path, "damaged", DataError),
        (lambda path: path.joinpath("a.jsonl.gz").write_bytes(GZIPPED[:-9]) and path, "damaged", DataError),
        (lambda path: path.joinpath("a.jsonl.zst").write_bytes(ZSTANDARD[:-1]) and path, "no end", DataError),
        (lambda path: path.joinpath("a.jsonl.zst").write_bytes(ZSTANDARD[:6]) and path, "no end", DataError),
        (lambda path: path.joinpath("a.jsonl.zst").write_bytes(b"no zstandard") and path, "damaged", DataError),
        (lambda path: path.joinpath("a.parquet").write_bytes(b"no parquet") and path, "damaged", DataError),
        (lambda path: pq.write_table(NO_LANGUAGE, path / "a.parquet") or path, "no column 'lang'", DataError),
        (lambda path: open_output(str(path), Request(kind="documents", config={})) and path, "unfinished", UsageError),
    ],
)  # fmt: skip
def test_unusable_inputs_are_one_line_that_names_the_file(tmp_path, make, word, error):
    path = make(tmp_path)
    with pytest.raises(error, match=word) as caught:
        read_all(str(path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_documents_artifacts_are_read_and_others_refused(tmp_path):
    for kind in ("documents", "corpus"):
        output = open_output(str(tmp_path / kind), Request(kind=kind, config={}))
        assert isinstance(output, Output)
        output.store.write("documents/de/0.jsonl", lines(ROWS))
        output.store.write("translations/de.txt", b"Satz.\n")
        output.finish([], {})
    assert good(read_all(str(tmp_path / "documents"))) == EXPECTED
    with pytest.raises(UsageError, match="holds a corpus artifact, expected documents"):
        find_documents([str(tmp_path / "corpus")])


def test_too_many_bad_rows():
    first = BadRow("a.jsonl", "line 3", 'no "id"', "{}")
    check_bad_rows(10, 20, 0.01, first)
    check_bad_rows(11, 1100, 0.01, first)
    check_bad_rows(0, 0, 0.01, None)
    with pytest.raises(DataError, match=r'11 of 1,099 rows .* a.jsonl, line 3: no "id"'):
        check_bad_rows(11, 1099, 0.01, first)


def test_splits_survive_the_trip_to_a_task():
    split = Split(format="jsonl", files=[SourceFile(uri="/a", name="a", bytes=3)], start=1, end=3)
    assert Split.model_validate_json(split.model_dump_json()) == split


def test_packed_lines_name_neither_time_nor_system():
    rows = [{"id": "1", "text": "Ü\n"}, {"id": "2", "text": ""}]
    data = pack_lines(rows)
    assert [json.loads(line) for line in gzip.decompress(data).splitlines()] == rows
    assert (data[4:8], data[9]) == (bytes(4), 255)  # RFC 1952: MTIME none, OS unknown
    assert pack_lines(iter(rows)) == data
