"""Files of queries in, runs out: every format of either, and lines that are refused by name."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models
import zstandard
from command_line import ccp
from embeddings_factory import write_embeddings
from index_factory import LANGUAGES, D, build, queries, rows
from test_reading import calibration

from ccp_ray.batch_search import search_files
from ccp_ray.errors import DataError, UsageError
from ccp_ray.model_source import model_reference
from ccp_ray.query_files import read_queries
from ccp_ray.run_files import write_run
from ccp_ray.search import Index
from ccp_ray.storage import read_uri

GOOD = b'{"id": "a", "text": "x"}\n'
WRITTEN = [("q1", "abc"), ("q 2", "tab\tand ä"), ("3", "")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index (raw), calibrated (an index of de and en) and the encoder of both."""
    folder = tmp_path_factory.mktemp("batch")
    encoder = model_reference("encoder", str(tiny_models.plain_folder(folder / "encoder"))).model_dump()
    vectors, table = rows(90, copies=20)
    build(folder / "index", vectors, table, 3, encoder=encoder)
    build(folder / "calibrated", vectors, table, 3, encoder=encoder, calibration=calibration(folder / "calibration"))
    return folder


def json_lines(*queries: dict[str, object]) -> bytes:
    return b"".join(json.dumps(query, ensure_ascii=False).encode() + b"\n" for query in queries)


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".tsv", ".queries"])
@pytest.mark.parametrize("block", [1, 2, 9])
def test_queries_come_back_in_order_and_blocks(tmp_path, kind, packed, block):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packed]
    data = json_lines(*({"id": name, "text": text} for name, text in WRITTEN))
    if kind == ".tsv":
        data = "\r\n".join(f"{name}\t{text}" for name, text in WRITTEN).encode("utf-8-sig")
    blocks = list(read_queries([written(tmp_path / f"q{kind}{packed}", pack(data))], block))
    assert [pair for one in blocks for pair in zip(one.ids, one.texts, strict=True)] == WRITTEN
    assert max(len(one.ids) for one in blocks) == min(block, 3)
    assert [place for one in blocks for place in one.places] == ["line 1", "line 2", "line 3"]


def test_an_embeddings_artifact_gives_its_vectors_ids_and_languages(tmp_path):
    first, second = queries(3, 1), queries(2, 2)
    write_embeddings(
        str(tmp_path / "e"),
        [(v, [(f"{n}-{i}", "de", "t") for i in range(len(v))]) for n, v in enumerate((first, second))],
    )
    blocks = list(read_queries([str(tmp_path / "e")], 2))
    np.testing.assert_array_equal(np.concatenate([one.vectors_QD for one in blocks]), np.concatenate([first, second]))
    assert [name for one in blocks for name in one.ids] == ["0-0", "0-1", "0-2", "1-0", "1-1"]
    assert {lang for one in blocks for lang in one.languages} == {"de"}
    assert blocks[2].places == ["row 3", "row 4"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("q.jsonl", GOOD + b'{"id": "a"}\n', r'q.jsonl, line 2: expected a JSON object with "id" and "text"'),
        ("q.jsonl", b'{"id": "a", "text": 3}\n', "line 1: expected a JSON object"),
        ("q.jsonl", b'{"id": null, "text": "x"}\n', "line 1: expected a JSON object"),
        ("q.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("q.jsonl", b'{"id": "a", "text": "\xff"}\n', "line 1: not UTF-8 text"),
        ("q.jsonl", b'{"id": "a", "text": "\\ud800"}\n', "line 1: not UTF-8 text, or a lone surrogate"),
        ("q.jsonl", GOOD + b'{"id": "b", "text": "x"}\n' + GOOD, "line 3: id 'a' came before, at line 1"),
        ("q.tsv", b"a\tx\nb x\n", "q.tsv, line 2: expected an id, a tab and a text"),
        ("q.tsv", b"\tx\n", "line 1: the id is empty"),
        ("q.jsonl", b"", "q.jsonl: no queries"),
        ("q.tsv.gz", b"a\tx\n", "q.tsv.gz: damaged or cut-off compressed file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("block", [1, 100])
def test_a_bad_line_is_named(tmp_path, name, data, words, block):
    with pytest.raises(DataError, match=words):
        list(read_queries([written(tmp_path / name, data)], block))


def test_an_id_of_two_files_and_files_that_are_none(tmp_path):
    one = written(tmp_path / "one.tsv", b"a\tx\n")
    other = written(tmp_path / "other.jsonl", json_lines({"id": "a", "text": "x"}))
    with pytest.raises(DataError, match=r"other.jsonl, line 1: id 'a' came before, at .*one.tsv, line 1"):
        list(read_queries([one, other]))
    with pytest.raises(UsageError, match=r"none\.jsonl: no such file"):
        list(read_queries([f"{tmp_path}/none.jsonl"]))
    with pytest.raises(UsageError, match="is a folder, expected a file"):
        list(read_queries([str(tmp_path)]))


def test_hits_are_those_of_the_texts_in_their_languages(made, tmp_path):
    index = Index.open(str(made / "calibrated"))
    texts, languages = ["abc", "de", "xyz"], ["de", "en", "en"]
    asked = [
        {"id": f"q{i}", "text": text, "lang": lang} for i, (text, lang) in enumerate(zip(texts, languages, strict=True))
    ]
    del asked[2]["lang"]
    file = written(tmp_path / "q.jsonl", json_lines(*asked))
    expected = index.search(texts, 4, lang=languages, prompt="ask ")
    assert expected != index.search(texts, 4, lang="de", prompt="ask ") != index.search(texts, 4, lang="de")
    assert [hit.id for hits in index.search(["ask abc"], 4, lang="de") for hit in hits] == [
        hit.id for hit in expected[0]
    ]
    for block in (1, 2, 100):
        found = list(search_files(index, [file], 4, lang="en", prompt="ask ", block=block))
        got = [row for one in found for row in one.hits.to_pylist()]
        assert [row["query"] for row in got] == [name for name in ("q0", "q1", "q2") for _ in range(4)]
        assert [row["rank"] for row in got] == [1, 2, 3, 4] * 3
        assert [(row["id"], row["text"]) for row in got] == [(hit.id, hit.text) for hits in expected for hit in hits]
        np.testing.assert_allclose([row["score"] for row in got], [h.score for one in expected for h in one], rtol=1e-6)


@pytest.mark.parametrize(
    ("lang", "row", "words"),
    [
        (None, {}, r'q.jsonl, line 2: names no language; .* knows de, en; add "lang" to the line, or --lang'),
        ("en", {"lang": "zz"}, "q.jsonl, line 2: language 'zz'; the index is calibrated by language and knows de, en"),
    ],
)
def test_a_query_of_no_known_language_is_named(made, tmp_path, lang, row, words):
    asked = json_lines({"id": "a", "text": "x", "lang": "de"}, {"id": "b", "text": "x"} | row)
    with pytest.raises(DataError, match=words):
        list(search_files(Index.open(str(made / "calibrated")), [written(tmp_path / "q.jsonl", asked)], lang=lang))


def test_vectors_of_an_embeddings_artifact_are_calibrated_where_the_index_is(made, tmp_path):
    vectors = queries(4)
    table = [(f"q{i}", LANGUAGES[i % 2], "t") for i in range(4)]
    artifact = write_embeddings(str(tmp_path / "e"), [(vectors, table)])
    with pytest.raises(UsageError, match="embedded with another encoder than the index"):
        list(search_files(Index.open(str(made / "index")), [artifact.uri]))
    manifest = tmp_path / "e" / "artifact.json"
    encoder = Index.open(str(made / "index")).artifact.summary["encoder"]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"inputs": [encoder]}))
    for name in ("index", "calibrated"):
        index = Index.open(str(made / name))
        ready = index.queries.calibrate(vectors, ["de", "en", "de", "en"])
        assert np.array_equal(ready, vectors) == (name == "index")
        (found,) = search_files(index, [artifact.uri], 5)
        assert found.hits.drop(["query"]).equals(index.search_table(ready, 5).drop(["query"]))


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.parametrize("ending", ["trec", "run", "parquet"])
def test_a_run_holds_every_hit_in_order(tmp_path, made, request, place, ending):
    folder = str(tmp_path) if place == "local" else request.getfixturevalue("moto_bucket").uri
    index = Index.open(str(made / "index"))
    tables = [index.search_table(queries(3, seed), 4) for seed in (1, 2)]
    named = [
        table.set_column(0, "query", [[f"q{seed}{q.as_py()}" for q in table.column("query")]])
        for seed, table in enumerate(tables)
    ]
    told = write_run(iter(named), f"{folder}/runs/out.{ending}")
    assert told == (6, 24)
    data = read_uri(f"{folder}/runs/out.{ending}")
    hits = [row for table in named for row in table.to_pylist()]
    if ending == "parquet":
        got = pq.read_table(io.BytesIO(data))
        assert got.column_names == ["query", "id", "rank", "score", "lang"]
        assert got.to_pylist() == [{name: hit[name] for name in got.column_names} for hit in hits]
    else:
        expected = [f"{h['query']} Q0 {h['id']} {h['rank']} {h['score']:.6f} ccp-ray" for h in hits]
        assert data.decode().splitlines() == expected


def test_a_run_that_fails_leaves_nothing(tmp_path, made):
    table = Index.open(str(made / "index")).search_table(queries(1), 2)

    def tables():
        yield table.set_column(0, "query", [["q1"] * 2])
        yield table.set_column(0, "query", [["q 2"] * 2])

    with pytest.raises(DataError, match="query 'q 2': a TREC run has no ids with blanks; write"):
        write_run(tables(), str(tmp_path / "out.trec"))
    assert list(tmp_path.iterdir()) == []
    write_run(tables(), str(tmp_path / "out.parquet"))
    with pytest.raises(UsageError, match=r"out.txt: a run is written as .trec, .run or .parquet"):
        write_run(tables(), str(tmp_path / "out.txt"))


def test_the_command_writes_what_the_library_finds(made, tmp_path):
    file = written(tmp_path / "q.tsv", b"q1\tabc\nq2\tde\n")
    index = Index.open(str(made / "index"))
    expected = index.search(["ask abc", "ask de"], 3)
    printed = ccp("search", made / "index", "--queries", file, "-k", 3, "--prompt", "ask ")
    lines = [
        f"q{q} Q0 {hit.id} {rank} {hit.score:.6f} ccp-ray"
        for q, hits in enumerate(expected, 1)
        for rank, hit in enumerate(hits, 1)
    ]
    assert (printed.code, printed.out.splitlines()) == (0, lines)
    assert printed.err == (
        f"ccp-ray: {made}/index: 90 rows; cosine, exact; raw vectors, not calibrated; queries begin with 'ask '\n"
    )
    run = tmp_path / "out.parquet"
    told = ccp("search", made / "index", "--queries", file, "-k", 3, "--prompt", "ask ", "--output", run, "--json")
    assert told.json == {"index": f"{made}/index", "output": str(run), "queries": 2, "hits": 6}
    assert pq.read_table(run).column("id").to_pylist() == [hit.id for hits in expected for hit in hits]
    spoken = ccp("search", made / "index", "--queries", file, "-k", 3, "--only", "sw", "--json")
    assert [(one["id"], {hit["lang"] for hit in one["hits"]}) for one in spoken.json["queries"]] == [
        ("q1", {"sw"}),
        ("q2", {"sw"}),
    ]
    assert "calibrated by language, queries too" in ccp("search", made / "calibrated", "abc", "--lang", "de").err


def test_a_place_that_forbids_writing_is_found_before_the_index_is_opened(made, tmp_path, monkeypatch):
    queries, folder = written(tmp_path / "q.tsv", b"q1\tabc\n"), written(tmp_path / "file", b"")
    with monkeypatch.context() as patch:
        patch.setattr(Index, "open", lambda *_, **__: pytest.fail("opened"))
        result = ccp("search", made / "index", "--queries", queries, "--output", f"{folder}/out.trec")
    assert (result.code, "a part of the path is a file, not a folder" in result.error) == (1, True)
    good = ccp("search", made / "index", "--queries", queries, "--output", tmp_path / "new" / "out.trec")
    assert good.code == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.trec"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["abc", "--output", "x.trec"], "--output: holds the results of --queries"),
        (["--queries", "q.jsonl", "--output", "x.csv"], "x.csv: a run is written as .trec, .run or .parquet"),
        (["abc", "--queries", "q.jsonl"], "say what to search: either TEXT arguments or --queries FILE"),
    ],
)
def test_a_command_that_cannot_be(made, options, words):
    result = ccp("search", made / "index", *options)
    assert result.code == 2
    assert result.error.startswith(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": "abc"}, "one string; give a list of texts"),
        ({"queries": ["abc"], "lang": None}, "say the language of the query"),
        ({"queries": ["abc"], "lang": ["de", "en"]}, "2 languages for 1 queries"),
        ({"queries": ["abc"], "lang": "sw"}, "the calibration does not know this language; it knows de, en"),
        ({"queries": np.ones((1, D), dtype=np.float32), "lang": "de"}, "vectors are taken as they are"),
    ],
)
def test_texts_that_cannot_be_searched(made, change, words):
    with pytest.raises(UsageError, match=words):
        Index.open(str(made / "calibrated")).search(**change)
