"""Reading the field's training files: every form, and what each broken one is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray import lines
from ccp_ray.config import build_config
from ccp_ray.errors import DataError, UsageError
from ccp_ray.json_stream import read_objects
from ccp_ray.pair_sources import Asked, Passage, SourceConfig, read_source
from ccp_ray.records import BadRow
from ccp_ray.sentences import Quarantine

DPR = {
    "question": "who?",
    "answers": ["me"],
    "positive_ctxs": [{"title": "T", "text": "It was me.", "passage_id": 7, "score": 1.0}],
    "negative_ctxs": [{"title": "", "text": "Easy."}],
    "hard_negative_ctxs": [{"title": "U", "text": "It was not."}],
}
TEVATRON = {
    "query_id": "5",
    "query": "wer?",
    "lang": " de",
    "positive_passages": [{"docid": "1#2", "title": "T", "text": "Ich."}],
    "negative_passages": [{"docid": "3", "text": "Du."}],
}
SQUAD = {
    "data": [
        {
            "title": "Some_article",
            "paragraphs": [
                {"context": "It was me.", "qas": [{"id": "a", "question": "who?", "answers": [{"text": "me"}]}]}
            ],
        }
    ]
}


def file(folder: Path, text: str, name: str = "rows.json") -> SourceConfig:
    path = folder / name
    path.write_text(text)
    return SourceConfig(file=str(path), lang="en")


def good(source: SourceConfig) -> list[Asked]:
    rows = list(read_source(source))
    assert all(isinstance(row, Asked) for row in rows), rows
    return rows  # type: ignore[return-value]


def test_dpr_as_an_array_and_as_lines_and_packed(tmp_path: Path) -> None:
    positive = Passage("T", "It was me.", "7")
    expected = Asked("object-1", "en", "who?", ["me"], [positive], [Passage("U", "It was not.")])
    assert positive.whole == "T\n\nIt was me."
    array = good(file(tmp_path, json.dumps([DPR, DPR], indent=2)))
    assert array == [expected, expected._replace(id="object-2")]
    assert good(file(tmp_path, "\ufeff" + json.dumps(DPR) + "\n\n" + json.dumps(DPR) + "\n", "rows.jsonl")) == array
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(json.dumps([DPR, DPR]).encode()))
    assert good(SourceConfig(file=str(tmp_path / "rows.jsonl.gz"), lang="en")) == array
    assert good(file(tmp_path, json.dumps([DPR | {"hard_negative_ctxs": []}])))[0].negatives == [Passage("", "Easy.")]


def test_tevatron_and_squad(tmp_path: Path) -> None:
    (row,) = good(file(tmp_path, json.dumps(TEVATRON)))
    assert row == Asked("5", "de", "wer?", [], [Passage("T", "Ich.", "1#2")], [Passage("", "Du.", "3")])
    (row,) = good(file(tmp_path, json.dumps(SQUAD)))
    assert row == Asked("a", "en", "who?", ["me"], [Passage("Some article", "It was me.")], [])


def test_squads_questions_without_an_answer_are_left_out_and_are_no_bad_rows(tmp_path: Path) -> None:
    """SQuAD 2.0 asks a third of its questions so that the paragraph, though near, does not answer them."""
    (article,) = SQUAD["data"]
    (paragraph,) = article["paragraphs"]  # type: ignore[index]
    asked = [
        {"id": "a", "question": "who?", "answers": [{"text": "me"}], "is_impossible": False},
        {"id": "b", "question": "why?", "answers": [], "is_impossible": True},
    ]
    both = {"data": [{"title": "T", "paragraphs": [paragraph | {"qas": asked}]}]}
    assert [row.id for row in good(file(tmp_path, json.dumps(both)))] == ["a"]


def test_xors_train_questions_have_answers_and_are_for_mining(tmp_path: Path) -> None:
    rows = [
        {"id": "-27", "question": "?", "answers": ["1917"], "lang": " ar", "split": "train"},
        {"id": "-28", "question": "?", "answers": [" "], "lang": "te", "split": "train"},
    ]
    source = file(tmp_path, "\n".join(map(json.dumps, rows)))
    found, bad = read_source(source, answers_suffice=True)
    assert found == Asked("-27", "ar", "?", ["1917"], [], [])
    assert isinstance(bad, BadRow)
    assert bad.reason == "no positive passage"
    refused, _ = read_source(source)
    assert isinstance(refused, BadRow)
    assert refused.reason == "no positive passage, which `ccp-ray mine` finds by the answers"


def judged(folder: Path, topics: str, qrels: str, docs: str) -> SourceConfig:
    for name, text in (("topics.tsv", topics), ("qrels.txt", qrels), ("docs.jsonl", docs)):
        (folder / name).write_text(text)
    return SourceConfig(
        topics=str(folder / "topics.tsv"), qrels=str(folder / "qrels.txt"), docs=str(folder / "docs.jsonl"), lang="sw"
    )


DOCS = '{"id": "1#0", "contents": "Nchi\\n\\nKenya iko."}\n{"id": "2#0", "contents": "hakuna"}\n'


def test_mrtydi_by_tabs_or_blanks(tmp_path: Path) -> None:
    for qrels in ("6\tQ0\t1#0\t1\n6\tQ0\t2#0\t0\n", "6 Q0 1#0 1\n6 Q0 9#9 1\n"):
        assert good(judged(tmp_path, "6\tBandari wapi?\n", qrels, DOCS)) == [
            Asked("6", "sw", "Bandari wapi?", [], [Passage("Nchi", "Kenya iko.", "1#0")], [])
        ]


@pytest.mark.parametrize(
    ("topics", "qrels", "docs", "said"),
    [
        ("6 Bandari\n", "6 Q0 1#0 1\n", DOCS, r"topics\.tsv, line 1: expected an id, a tab"),
        (
            "6\tB\n",
            "6 Q0 1#0\n",
            DOCS,
            r"qrels\.txt, line 1: expected four columns of TREC qrels",
        ),
        ("6\tB\n", "6 Q0 1#0 1\n", '{"id": "1#0"}\n', r'docs\.jsonl, line 1: expected a JSON object with "id"'),
    ],
)
def test_broken_lines_of_mrtydi_are_named(tmp_path: Path, topics: str, qrels: str, docs: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read_source(judged(tmp_path, topics, qrels, docs)))


HALF_CHARACTERS: list[dict[str, Any]] = [
    DPR | {"question": "a\ud800"},
    DPR | {"answers": ["me", "\ud83d"]},
    DPR | {"id": "\ud83d"},
    DPR | {"positive_ctxs": [{"text": "x", "psg_id": "\ud83d"}]},
    DPR | {"hard_negative_ctxs": [{"title": "\ud83d", "text": "x"}]},
    TEVATRON | {"query_id": "\ud83d"},
]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (DPR | {"positive_ctxs": []}, "no positive passage"),
        (DPR | {"positive_ctxs": [{"title": "x", "text": " "}]}, "no positive passage"),
        (DPR | {"question": "  "}, "the question is empty"),
        (DPR | {"question": 3}, '"question" is int, expected a string'),
        (DPR | {"positive_ctxs": {}}, '"positive_ctxs" is dict, expected a list'),
        (DPR | {"hard_negative_ctxs": ["x"]}, "a JSON str where an object was expected"),
        ({"text": "x"}, 'neither "question" and "positive_ctxs"'),
        ([1], "a JSON list, expected an object"),
        *((row, "lone surrogate") for row in HALF_CHARACTERS),
    ],
)
def test_a_row_that_cannot_be_used_says_why_and_the_next_is_read(tmp_path: Path, row: Any, reason: str) -> None:
    bad, fine = read_source(file(tmp_path, json.dumps([row, DPR])))
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert bad.row == "object 1, line 1"
    assert isinstance(fine, Asked)


def test_half_characters_reach_the_quarantine_and_its_file(tmp_path: Path) -> None:
    """JSON can escape half of a surrogate pair, UTF-8 has no bytes for it."""
    docs = '{"id": "1#0", "contents": "\\ud800"}\n'
    rows = [*read_source(judged(tmp_path, "6\tB\n", "6 Q0 1#0 1\n", docs))]
    rows += read_source(file(tmp_path, json.dumps(HALF_CHARACTERS)))
    quarantine = Quarantine(tmp_path / "bad.jsonl")
    for row in rows:
        assert isinstance(row, BadRow)
        quarantine.add(row)
    (record,) = quarantine.put(str(tmp_path / "store"), "bad.jsonl")
    put = [json.loads(line) for line in (tmp_path / "store" / record.path).read_text(encoding="utf-8").splitlines()]
    assert len(put) == 1 + len(HALF_CHARACTERS)
    assert all("lone surrogate" in row["reason"] for row in put)
    assert r"a\ud800" in put[1]["sample"]


def test_a_question_whose_passages_are_not_among_the_documents_is_put_aside(tmp_path: Path) -> None:
    (bad,) = read_source(judged(tmp_path, "6\tB\n", "6 Q0 5#5 1\n", DOCS))
    assert isinstance(bad, BadRow)
    assert bad.reason == "its passage '5#5' (qrels) is not among the documents"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', r"line 3, column 7: not JSON \(Expecting value\)"),
        ('[{"a": 1}', "the file ends within the array"),
        ('[{"a": 1} {"a": 2}]', "line 1, column 11: expected a comma or the end of the array"),
        ('[{"a": 1}] 3', "expected nothing after the end of the array"),
        ('{"a": 1}\n{"a": "\n', r"line 2, column 8: not JSON \(Invalid control character"),
    ],
)
def test_broken_json_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read_objects(str(file(tmp_path, text).file)))


def test_what_is_not_utf8_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match="byte 8: not UTF-8"):
        list(read_objects(str(tmp_path / "odd.json")))
    with pytest.raises(UsageError, match=r"nothing\.json: no such file"):
        list(read_objects(str(tmp_path / "nothing.json")))
    with pytest.raises(UsageError, match="a source is either file, or topics, qrels and docs together"):
        build_config(SourceConfig, {"topics": "x"})


_VALUES = st.dictionaries(st.text(max_size=4), st.one_of(st.text(max_size=20), st.integers(), st.none()), max_size=3)


@given(st.lists(_VALUES, max_size=6), st.sampled_from(["array", "lines", "indented"]), st.integers(1, 9))
def test_any_objects_come_back_whatever_the_chunks(values: list[Any], form: str, chunk: int) -> None:
    """Chunks cut between and within objects, strings and characters."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK", chunk)
        path = Path(folder, "x.json")
        text = "\n".join(json.dumps(value, ensure_ascii=False) for value in values)
        if form != "lines":
            text = json.dumps(values, indent=2 if form == "indented" else None, ensure_ascii=False)
        path.write_bytes(text.encode())
        assert [found.value for found in read_objects(str(path))] == values
