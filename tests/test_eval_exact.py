"""Exact search over pieces: the hits of brute force, whatever the pieces, the variants and the ties."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from embeddings_factory import write_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import peak_growth

from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.calibration import Calibration
from ccp_ray.embeddings import Embeddings
from ccp_ray.errors import DataError, UsageError
from ccp_ray.shard import Shard
from eval import exact
from eval.exact import Asked, Best, Space, exact_search, placed
from eval.exact_job import Search, run_search
from eval.protocol import VARIANTS

D = 8


def rotation(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))[0].astype(np.float32)


def calibration() -> Calibration:
    rng = np.random.default_rng(5)
    steps = {
        lang: (rng.normal(size=D).astype(np.float32), rng.uniform(0.5, 2, D).astype(np.float32), rotation(seed))
        for seed, lang in enumerate(("de", "en", "sw"))
    }
    return Calibration("en", steps)


def collection(rows: int, copies: int = 0, seed: int = 0) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """Passages of three languages, the first `copies` of one vector and one language; ids in no order."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, D)).astype(np.float32)
    vectors[:copies] = vectors[0]
    names = rng.permutation(rows)
    languages = ["de"] * copies + [("de", "en", "sw")[i % 3] for i in range(rows - copies)]
    return vectors, [(f"p{name}", lang, f"text of {name}") for name, lang in zip(names, languages, strict=True)]


def written(folder: Path, vectors: np.ndarray, rows: Sequence[tuple[str, str, str]], cuts: Sequence[int]) -> Embeddings:
    bounds = [0, *sorted(cuts), len(rows)]
    parts = [(vectors[a:b], list(rows[a:b])) for a, b in pairwise(bounds) if a < b]
    return Embeddings.open(write_embeddings(str(folder), parts).uri)


def variants(queries: np.ndarray, languages: Sequence[str], fitted: Calibration) -> dict[str, Asked]:
    return {name: Asked(steps, placed(queries, languages, steps, Space(fitted))) for name, steps in VARIANTS.items()}


def brute_force(queries: np.ndarray, vectors: np.ndarray, rows: Sequence[tuple[str, str, str]], k: int) -> list:
    """(score, id) of the k best, ties by id; scores in float64."""
    found = []
    for query in queries.astype(np.float64):
        scores = [float((row * query).sum()) for row in vectors.astype(np.float64)]
        found.append(sorted((-score, row[0]) for score, row in zip(scores, rows, strict=True))[:k])
    return found


def listed(table, queries: int) -> list:
    hits = [[] for _ in range(queries)]
    for row in table.to_pylist():
        hits[row["query"]].append((-row["score"], row["id"]))
    return hits


@settings(max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=4),
    k=st.sampled_from([1, 3, 10, 100]),
    copies=st.integers(0, 40),
    seed=st.integers(0, 3),
)
def test_the_hits_are_those_of_brute_force(tmp_path_factory, cuts, k, copies, seed):
    vectors, rows = collection(60, copies, seed)
    folder = tmp_path_factory.mktemp("e")
    queries = np.random.default_rng(seed + 100).normal(size=(5, D)).astype(np.float32)
    languages, fitted = ["en", "de", "sw", "en", "de"], calibration()
    asked = variants(queries, languages, fitted)
    whole = exact_search(written(folder / "whole", vectors, rows, []), asked, k, Space(fitted))
    cut = exact_search(written(folder / "cut", vectors, rows, cuts), asked, k, Space(fitted))
    row_languages = [row[1] for row in rows]
    for name, steps in VARIANTS.items():
        as_placed = placed(vectors, row_languages, steps, Space(fitted))
        expected = brute_force(asked[name].queries_QD, as_placed, rows, k)
        found = listed(cut[name], 5)
        assert found == listed(whole[name], 5)  # bit for bit
        if name == "rotate":  # the oracle turns the rows, whose last bits differ: copies tie no more
            for mine, theirs in zip(found, expected, strict=True):
                assert [score for score, _ in mine] == pytest.approx([score for score, _ in theirs], abs=1e-6)
        else:
            assert found == expected


@pytest.mark.parametrize("languages", [["de"], ["de", "en"]])
def test_rows_are_calibrated_by_blocks(languages: list[str]) -> None:
    rows = 40_000
    vectors = np.random.default_rng(2).normal(size=(rows, D)).astype(np.float32)
    row_languages = np.resize(languages, rows).tolist()
    fitted, steps = calibration(), VARIANTS["scale"]
    small = Space(fitted)
    tracemalloc.start()
    found = placed(vectors, row_languages, steps, small)
    peak = tracemalloc.get_traced_memory()[1] - 8 * 2 * rows  # names and numbers of rows
    tracemalloc.stop()
    assert peak < 2.5 * vectors.nbytes
    for row in (0, 1, 2047, 2048, 8191, 8192, rows - 1):
        np.testing.assert_array_equal(
            found[row : row + 1], fitted.apply(vectors[row : row + 1], row_languages[row], steps)
        )


def test_one_variants_vectors_are_gone_before_the_next_ones_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Shard]] = []
    seen: list[int] = []

    def made(*args, **options):
        shard = Shard.of(*args, **options)
        alive.append(weakref.ref(shard))
        return shard

    def watched(*args):
        seen.append(sum(one() is not None for one in alive))
        return placed(*args)

    vectors, rows = collection(30)
    embeddings = written(tmp_path / "e", vectors, rows, [])
    asked = variants(vectors[:2], ["de", "en"], calibration())
    monkeypatch.setattr(exact, "Shard", SimpleNamespace(of=made))
    monkeypatch.setattr(exact, "placed", watched)
    exact_search(embeddings, asked, 3, Space(calibration()))
    assert seen == [0, 0, 0]  # raw, shift, scale; rotate turns the queries


def test_dot_takes_raw_vectors_as_they_are(tmp_path):
    vectors, rows = collection(40)
    vectors *= np.arange(1, 41, dtype=np.float32)[:, None]
    dot = Space(similarity="dot")
    queries = 3 * np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)
    asked = {"raw": Asked((), placed(queries, ["en"] * 4, (), dot))}
    found = exact_search(written(tmp_path / "e", vectors, rows, [13, 14]), asked, 7, dot)
    assert listed(found["raw"], 4) == brute_force(queries, vectors, rows, 7)
    cosine = exact_search(written(tmp_path / "e", vectors, rows, [13, 14]), asked, 7)
    assert listed(cosine["raw"], 4) != listed(found["raw"], 4)


def test_a_piece_is_read_once_for_all_variants(tmp_path, monkeypatch):
    vectors, rows = collection(30)
    embeddings = written(tmp_path / "e", vectors, rows, [10, 20])
    read: list[str] = []
    whole = Embeddings.stored
    monkeypatch.setattr(Embeddings, "stored", lambda self, piece: read.append(piece.name) or whole(self, piece))
    exact_search(embeddings, variants(vectors[:3], ["en"] * 3, calibration()), 5, Space(calibration()))
    assert read == [piece.name for piece in embeddings.pieces]


def test_the_job_finds_the_same_and_continues(tmp_path, ray_local, monkeypatch):
    vectors, rows = collection(90, copies=20)
    embeddings = written(tmp_path / "e", vectors, rows, [30, 31, 70])
    fitted = open_output(str(tmp_path / "c"), Request(kind="calibration", config={}))
    assert isinstance(fitted, Output)
    fitted.finish([calibration().save(fitted.store)], calibration().summary())
    asked = variants(vectors[:4], ["en", "de", "sw", "sw"], calibration())
    search = Search("search-00", embeddings.artifact.uri, asked, 25, str(tmp_path / "c"), "cosine")
    target = open_output(str(tmp_path / "out"), Request(kind="evaluation", config={}))
    assert isinstance(target, Output)
    assert not isinstance(target, Artifact)
    expected = exact_search(embeddings, asked, 25, Space(calibration()))
    first = run_search(target, search)
    assert all(first[name].equals(expected[name]) for name in VARIANTS)
    monkeypatch.setattr("ray.data.from_items", lambda *_, **__: pytest.fail("searched again"))
    again = run_search(target, search)
    assert all(again[name].equals(expected[name]) for name in VARIANTS)


def searched(uri: str) -> None:
    embeddings = Embeddings.open(uri)
    queries = np.random.default_rng(1).normal(size=(4, embeddings.dimensions)).astype(np.float32)
    exact_search(embeddings, {"raw": Asked((), queries)}, 10)


def test_memory_is_that_of_one_piece(tmp_path):
    """As stored in float16, and in float32: three times the piece, however many there are, and what is not vectors.

    With a copy for FAISS, and unit vectors made all at once, it was seven times. Arrays are larger than what malloc
    keeps for itself (32 MiB).
    """
    rows, width, pieces = 36_000, 512, 4
    vectors = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float16)
    names = [[(f"{number}-{row}", "en", "text") for row in range(rows)] for number in range(pieces)]
    large = write_embeddings(str(tmp_path / "large"), [(vectors, own) for own in names])
    small = write_embeddings(str(tmp_path / "small"), [(vectors[:100], names[0][:100])])
    growth = peak_growth(searched, (small.uri,), (large.uri,))
    assert 3 * vectors.nbytes < growth < 3 * vectors.nbytes + (64 << 20)


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 50)), max_size=12), max_size=8))
def test_best_keeps_what_sorting_all_would(parts):
    from ccp_ray import ranking

    def table(part, number):
        values = [(query, score / 4, f"{name:02d}", number, row) for row, (query, score, name) in enumerate(part)]
        names = ranking.RANKED.names
        return ranking.RANKED.empty_table().from_pylist(
            [dict(zip(names, value, strict=True)) for value in values], ranking.RANKED
        )

    tables = [table(part, number) for number, part in enumerate(parts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.exact._WAITING", 5)
        kept = Best(3, 4)
        for one in tables:
            kept.add(one)
        assert kept.table().equals(ranking.best([ranking.RANKED.empty_table(), *tables], 4).combine_chunks())


def test_rows_that_name_no_language_are_of_the_one_that_is_said(tmp_path):
    vectors, rows = collection(30)
    asked = variants(vectors[:3], ["en"] * 3, calibration())
    named, unnamed = ([(row[0], lang, row[2]) for row in rows] for lang in ("sw", "und"))
    expected = exact_search(written(tmp_path / "a", vectors, named, [9]), asked, 5, Space(calibration()))
    space = Space(calibration(), unnamed="sw")
    found = exact_search(written(tmp_path / "b", vectors, unnamed, [9]), asked, 5, space)
    assert all(found[name].equals(expected[name]) for name in VARIANTS)


def test_wrong_use_is_explained(tmp_path):
    embeddings = written(tmp_path / "e", *collection(6), [])
    with pytest.raises(DataError, match=r"queries of 3 dimensions do not fit .* of 8"):
        exact_search(embeddings, {"raw": Asked((), np.ones((1, 3), np.float32))}, 3)
    with pytest.raises(UsageError, match="k must be at least 1"):
        exact_search(embeddings, {"raw": Asked((), np.ones((1, D), np.float32))}, 0)
    with pytest.raises(UsageError, match="there is no calibration"):
        exact_search(embeddings, {"shift": Asked(("shift",), np.ones((1, D), np.float32))}, 3)
    only = Calibration("en", {"en": calibration().parameters("en")})
    with pytest.raises(DataError, match="no language 'de'"):
        exact_search(embeddings, {"shift": Asked(("shift",), np.ones((1, D), np.float32))}, 3, Space(only))
