"""Names of pieces: whatever decides a vector changes them, nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.corpus import Corpus
from ccp_ray.embed_config import EmbedConfig
from ccp_ray.embed_plan import corpus_plan, imported_plan, piece_name
from ccp_ray.rows import ImportedPart

SHA = "ab" * 32
OTHER: dict[str, Any] = {
    "precision": "fp32",
    "dtype": "float32",
    "pooling": "mean",
    "max_tokens": 9,
    "prompt": "query: ",
    "token_budget": 64,
    "split": "dev",
    "limit": 3,
    "max_bad_share": 0.5,
    "piece_rows": 7,
    "resources": {"workers": 3, "gpu": True, "tokenizers": 2},
}
NOT_OF_A_ROW = {"split", "limit", "max_bad_share", "piece_rows", "token_budget", "resources"}


@pytest.mark.parametrize("field", sorted(EmbedConfig.model_fields))
def test_a_setting_changes_the_name_if_it_touches_a_vector(field):
    plain, changed = EmbedConfig(), EmbedConfig.model_validate({field: OTHER[field]})
    assert changed != plain
    same = piece_name(SHA, 5, "encoder", changed) == piece_name(SHA, 5, "encoder", plain)
    assert same == (field in NOT_OF_A_ROW)


@given(st.sampled_from(["aa", "bb"]), st.integers(1, 3), st.sampled_from(["e", "f"]))
def test_rows_and_encoder_are_in_the_name(sha256, rows, encoder):
    config = EmbedConfig()
    base = ("aa", 1, "e")
    same = piece_name(sha256, rows, encoder, config) == piece_name(*base, config)
    assert same == ((sha256, rows, encoder) == base)


def test_neither_place_nor_number_of_the_part_is_in_the_name():
    one = imported_plan([ImportedPart("00000-0000", "_rows/00000-0000.parquet", 5, SHA)], "/a", "e", EmbedConfig())
    other = imported_plan([ImportedPart("00003-0001", "_rows/x.parquet", 5, SHA)], "s3://b/c", "e", EmbedConfig())
    assert [piece.name for piece in one] == [piece.name for piece in other]


def test_rows_that_stand_twice_are_two_pieces():
    part = ImportedPart("00000-0000", "_rows/a.parquet", 5, SHA)
    twice = imported_plan([part, part._replace(key="_rows/b.parquet"), part._replace(rows=4)], "/a", "e", EmbedConfig())
    assert len({piece.name for piece in twice}) == 3
    assert twice[0] == imported_plan([part], "/a", "e", EmbedConfig())[0]


def test_a_limit_takes_the_first_rows_of_each_language_and_leaves_whole_parts_their_names(small_run):
    corpus = Corpus.open(small_run.corpus)
    everything = corpus_plan(corpus, "e", EmbedConfig())
    assert sum(piece.rows for piece in everything) == sum(part.rows for part in corpus.parts())
    most = max(piece.rows for piece in everything)
    assert corpus_plan(corpus, "e", EmbedConfig(limit=10 * most)) == everything
    few = corpus_plan(corpus, "e", EmbedConfig(limit=3))
    by_language = {}
    for piece in few:
        language = piece.key.split("/")[1]
        by_language[language] = by_language.get(language, 0) + piece.rows
    assert by_language == dict.fromkeys(corpus.languages, 3)
    assert not {piece.name for piece in few} & {piece.name for piece in everything}
