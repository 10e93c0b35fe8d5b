"""Lots: as many rows as asked for, none both trained on and asked for, the same however much a corpus grows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.embeddings import EmbeddingsPiece
from ccp_ray.index_sample import Draw, draw, held_out


def pieces(sizes: list[int]) -> list[EmbeddingsPiece]:
    return [
        EmbeddingsPiece(name=f"piece {n}", rows=rows, vectors="", table="", languages={})
        for n, rows in enumerate(sizes)
    ]


SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=8)


@given(SIZES, st.integers(1, 500), st.integers(1, 200), st.integers(0, 3))
def test_counts_are_those_asked_for_and_no_row_is_both(sizes, train, queries, seed):
    plan = pieces(sizes)
    drawn = draw(plan, seed, train, queries)
    held = sum(held_out(rows) for rows in sizes)
    trained = [drawn.train_rows(piece) for piece in plan]
    asked = [drawn.query_rows(piece) for piece in plan]
    assert sum(map(len, trained)) == min(train, sum(sizes) - held)
    assert sum(map(len, asked)) == min(queries, held)
    assert not any(set(left) & set(right) for left, right in zip(trained, asked, strict=True))


@given(SIZES, SIZES)
def test_a_row_that_trained_is_no_query_of_a_larger_corpus(sizes, more):
    small, large = pieces(sizes), pieces(sizes + more)
    before, after = draw(small, 0, 10_000, 1), draw(large, 0, 10, 10_000)
    for piece in small:
        assert not set(before.train_rows(piece)) & set(after.query_rows(piece))


def test_without_training_every_row_may_be_a_query():
    plan = pieces([40, 60])
    drawn = draw(plan, 0, train=0, queries=100)
    assert [list(drawn.query_rows(piece)) for piece in plan] == [list(range(40)), list(range(60))]
    assert not any(len(drawn.train_rows(piece)) for piece in plan)


def test_rows_are_taken_evenly_and_another_seed_takes_others():
    plan = pieces([4000] * 10)
    drawn = draw(plan, 0, 4000, 400)
    counts = np.array([len(drawn.train_rows(piece)) for piece in plan])
    assert abs(counts - 400).max() < 100  # five deviations of a binomial
    rows = np.concatenate([drawn.train_rows(piece) for piece in plan])
    assert abs(rows.mean() - 2000) < 100
    assert set(drawn.query_rows(plan[0])) != set(draw(plan, 1, 4000, 400).query_rows(plan[0]))
    assert set(drawn.query_rows(plan[0])) != set(drawn.query_rows(plan[1]))
    assert Draw(**drawn._asdict()) == drawn  # as it travels to tasks
