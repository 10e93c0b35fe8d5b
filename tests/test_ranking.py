"""The order of hits: any split of candidates gives the same list."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ccp_ray.ranking import RANKED, best, leading, places

# Few scores and few ids: ties everywhere, an id given twice among them.
ROW = st.tuples(
    st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.25, 0.5]), st.sampled_from(["", "a", "b", "ä", "c\U0001f600"])
)


def ranked(rows: list[tuple[int, float, str]], numbers: list[int]) -> pa.Table:
    """Candidates; row i of the index is row i % 5 of shard i // 5."""
    values = [(*rows[i], i // 5, i % 5) for i in numbers]
    return pa.Table.from_pylist([dict(zip(RANKED.names, row, strict=True)) for row in values], RANKED)


@given(st.lists(ROW, max_size=40), st.integers(1, 6), st.integers(1, 5), st.randoms())
def test_any_split_gives_the_same_list(rows, k, parts, random):
    plain = []
    for query in range(4):
        mine = [(-score, name, i) for i, (q, score, name) in enumerate(rows) if q == query]
        plain += [(query, -score, name, i // 5, i % 5) for score, name, i in sorted(mine)[:k]]
    numbers = list(range(len(rows)))
    random.shuffle(numbers)
    split = [ranked(rows, numbers[i::parts]) for i in range(parts)]
    merged = best(split, k)
    assert [tuple(row.values()) for row in merged.to_pylist()] == plain
    assert best([best([part], k) for part in split], k).equals(merged)  # the best of the best of the parts


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0])), max_size=30), st.integers(1, 5))
def test_leading_keeps_k_and_their_ties(rows, k):
    query, score = (np.array([row[i] for row in rows], dtype=dtype) for i, dtype in enumerate((np.int64, np.float64)))
    kept = set(leading(query, score, k).tolist())
    for i, (q, s) in enumerate(rows):
        better = sum(other > s for p, other in rows if p == q)
        assert (i in kept) == (better < k)


def test_places_count_within_a_query():
    assert places(np.array([0, 0, 2, 2, 2, 7])).tolist() == [0, 1, 0, 1, 2, 0]
    assert places(np.array([], dtype=np.int64)).tolist() == []
