"""Context retrieval against a brute-force oracle, on corpora written by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccp_ray.artifact import Artifact, Request, open_output
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import put_bytes
from eval.context import Context, ContextConfig, Row, Sample, chance_level, load_context, passages
from eval.protocol import Text


def write_corpus(uri: str, parts: list[tuple[str, str, list[int]]]) -> str:
    """Parts (language, split, sentences of each document)."""
    output = open_output(uri, Request(kind="corpus", config={}))
    assert not isinstance(output, Artifact)
    files, index = [], []
    for number, (lang, split, documents) in enumerate(parts):
        rows = [
            {
                "id": f"{lang}{number}.{d}#{s}",
                "doc": f"{lang}{number}.{d}",
                "lang": lang,
                "position": s,
                "text": f"t {d} {s}",
            }
            for d, count in enumerate(documents)
            for s in range(count)
        ]
        schema = pa.schema([(n, pa.string()) for n in ("id", "doc", "lang", "text")] + [("position", pa.int32())])
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
        files.append(put_bytes(output.store, f"sentences/{lang}/{split}-{number}-0.parquet", buffer.getvalue()))
        part = {"name": f"p{number}", "lang": lang, "split": split, "rows": len(rows), "tokens": None, "token_count": 0}
        index.append(part | {"sentences": files[-1].path, "documents": len(documents)})
    output.finish([*files, put_bytes(output.store, "parts.json", json.dumps(index).encode())], {})
    return uri


def sample_of(documents: list[int]) -> Sample:
    places = [(d, s) for d, count in enumerate(documents) for s in range(count)]
    texts = [Text(f"{d}#{s}", "aa", "t") for d, s in places]
    return Sample(texts, np.array([d for d, _ in places]), np.array([s for _, s in places]))


shapes = st.lists(st.integers(2, 9), min_size=1, max_size=5).filter(lambda documents: sum(documents) >= 3)


@given(documents=shapes, window=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None)
def test_score_matches_brute_force(documents: list[int], window: int, seed: int) -> None:
    sample = sample_of(documents)
    count = len(sample.texts)
    vectors_ND = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    places = list(zip(sample.document_N.tolist(), sample.position_N.tolist(), strict=True))

    def near(i: int, j: int) -> bool:
        return places[i][0] == places[j][0] and abs(places[i][1] - places[j][1]) <= window

    others = [[j for j in range(count) if j != i] for i in range(count)]
    found = [max(others[i], key=lambda j: vectors_ND[i] @ vectors_ND[j]) for i in range(count)]
    accuracy = np.mean([near(i, found[i]) for i in range(count)])
    chance = np.mean([near(i, j) for i in range(count) for j in others[i]])
    score = Context({"aa": sample}, window).score(lambda ids, lang: vectors_ND)
    assert score["languages"]["aa"] == {"accuracy": pytest.approx(accuracy), "chance": pytest.approx(chance)}
    assert score["macro"] == score["languages"]["aa"]


def test_chance_is_twice_the_window_in_a_long_document() -> None:
    assert chance_level(sample_of([1000]), 5) == pytest.approx(2 * 5 / 999, rel=0.01)


def test_neighbours_by_topic_score_one_and_strangers_nothing() -> None:
    sample = sample_of([4, 4, 4])
    topics_ND = np.eye(3, dtype=np.float32)[sample.document_N]
    assert Context({"aa": sample}, 5).score(lambda *_: topics_ND)["macro"]["accuracy"] == 1
    places_ND = np.eye(4, dtype=np.float32)[sample.position_N]
    assert Context({"aa": sample}, 5).score(lambda *_: places_ND)["macro"]["accuracy"] == 0


def test_samples_a_passage_of_every_document_before_more_of_any(tmp_path: Path) -> None:
    parts = [("aa", "dev", [1, 3, 2]), ("aa", "dev", [4, 8]), ("aa", "train", [9]), ("bb", "dev", [2, 2])]
    corpus = write_corpus(str(tmp_path / "c"), parts)
    benchmark = load_context(corpus, ContextConfig(sentences=13, passage=3))
    ids = [text.id for text in benchmark.texts() if text.lang == "aa"]
    # A passage of one sentence has no context: the first document is left out, and the fourth sentence of aa1.0.
    expected = {"aa0.1": range(3), "aa0.2": range(2), "aa1.0": range(3), "aa1.1": range(5)}
    assert ids == [f"{doc}#{s}" for doc, positions in expected.items() for s in positions]
    assert benchmark.describe() == {
        "window": 5,
        "languages": {"aa": {"sentences": 13, "documents": 4}, "bb": {"sentences": 4, "documents": 2}},
    }


def test_reads_no_more_than_it_needs(tmp_path: Path) -> None:
    corpus = write_corpus(str(tmp_path / "c"), [("aa", "dev", [4, 4]), ("aa", "dev", [4])])
    next((tmp_path / "c" / "sentences" / "aa").glob("dev-1*")).unlink()
    assert load_context(corpus, ContextConfig(sentences=6, passage=3)).describe()["languages"]["aa"]["documents"] == 2


@given(lengths=st.lists(st.integers(0, 12), max_size=6), length=st.integers(2, 5), most=st.integers(3, 40))
@settings(deadline=None)
def test_passages_are_spread_evenly(lengths: list[int], length: int, most: int) -> None:
    documents = [[Row(s, f"{d}#{s}", "t") for s in range(count)] for d, count in enumerate(lengths)]
    taken = passages(documents, length, most)
    assert len(taken) <= most
    assert taken == sorted(set(taken))
    blocks = [len({row.position // length for number, row in taken if number == d}) for d in range(len(lengths))]
    for d, count in enumerate(lengths):
        possible = count // length + (count % length >= 2)
        assert blocks[d] >= min(possible, max(blocks) - 1)


def test_a_document_is_never_cut_to_one_sentence(tmp_path: Path) -> None:
    corpus = write_corpus(str(tmp_path / "c"), [("aa", "dev", [4, 4])])
    assert load_context(corpus, ContextConfig(sentences=5)).describe()["languages"]["aa"]["sentences"] == 4


def test_languages_without_held_out_documents(tmp_path: Path) -> None:
    corpus = write_corpus(str(tmp_path / "c"), [("aa", "dev", [4]), ("bb", "train", [4]), ("cc", "dev", [2])])
    assert list(load_context(corpus).describe()["languages"]) == ["aa"]
    with pytest.raises(DataError, match="too few held-out sentences of bb"):
        load_context(corpus, ContextConfig(languages=["aa", "bb"]))
    with pytest.raises(UsageError, match="no language 'dd'; it has aa, bb, cc"):
        load_context(corpus, ContextConfig(languages=["dd"]))
    with pytest.raises(DataError, match="too few held-out sentences of aa"):
        load_context(write_corpus(str(tmp_path / "d"), [("aa", "train", [4])]))


def test_the_key_knows_documents_and_window(tmp_path: Path) -> None:
    keys = [Context({"aa": sample_of(shape)}, window).key() for shape, window in (([4, 2], 5), ([4, 2], 3), ([6], 5))]
    assert len(set(keys)) == 3
