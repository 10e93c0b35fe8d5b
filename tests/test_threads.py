"""Threads beside each other: order, errors, and results that do not depend on how many there are."""

from __future__ import annotations

import threading

import faiss  # noqa: F401  # brings a BLAS that counts each thread's threads apart
import numpy as np
import pytest
from synthetic_spaces import sentences, turn
from threadpoolctl import ThreadpoolController

from ccp_ray.calibration_fit import fit
from ccp_ray.threads import map_threads

BLAS = ThreadpoolController().select(user_api="blas")


def blas_threads() -> list[int]:
    return [library.num_threads for library in BLAS.lib_controllers]


def test_as_many_work_at_once_as_the_blas_has_threads_and_its_own_is_one() -> None:
    together = threading.Barrier(3, timeout=60)  # a fourth never comes: fewer than three would wait in vain
    with BLAS.limit(limits=3):
        seen = map_threads(lambda number: (number, together.wait() in range(3), blas_threads()), range(9))
        assert blas_threads() == [3] * len(BLAS.lib_controllers)
    assert seen == [(number, True, [1] * len(BLAS.lib_controllers)) for number in range(9)]


def test_within_a_thread_work_goes_one_by_one() -> None:
    with BLAS.limit(limits=3):
        found = map_threads(lambda _: map_threads(lambda _: threading.get_ident(), range(4)), range(3))
    assert [len(set(inner)) for inner in found] == [1, 1, 1]


def test_the_first_error_comes_out_and_the_blas_has_its_threads_again() -> None:
    def work(number: int) -> int:
        if number >= 2:
            raise ValueError(f"item {number}")
        return number

    with BLAS.limit(limits=3):
        with pytest.raises(ValueError, match="item 2"):
            map_threads(work, range(5))
        assert blas_threads() == [3] * len(BLAS.lib_controllers)


def test_a_calibration_is_the_same_to_the_bit_with_any_number_of_threads() -> None:
    rows = {"en": sentences(1500, 96, 0)}
    rows |= {f"x{i}": sentences(300 + 100 * i, 96, i + 1) @ turn(96, 20 * i, i).T for i in range(4)}
    found = []
    for threads in (1, 4):
        with BLAS.limit(limits=threads):
            found.append(fit(rows))
    one, four = found
    assert one.summary() == four.summary()
    for lang in rows:
        for step_one, step_four in zip(one.parameters(lang), four.parameters(lang), strict=True):
            np.testing.assert_array_equal(step_one, step_four)
