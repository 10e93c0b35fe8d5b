"""NumPy work on many independent things: a thread each, instead of the threads of the BLAS within each of them.

NumPy and its BLAS release the interpreter's lock, so threads share nothing but the cores. Within one thing most of the
time goes to what runs on one thread whatever is allowed: small decompositions, partial sorting. And with a BLAS of one
thread a result does not depend on the machine's cores: a product's last bits may follow from how it is shared out.

As many threads as the BLAS has: Ray gives a task's processes those of its CPUs (OMP_NUM_THREADS), so tasks beside each
other do not fight. Within such a thread, and where the BLAS cannot be asked (Apple's), work goes one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(work: Callable[[Item], Result], items: Iterable[Item], at_most: int | None = None) -> list[Result]:
    """`work` of every item, in their order. Raises what the first item that failed raised.

    at_most: threads that there is memory for.
    """
    blas = ThreadpoolController().select(user_api="blas")
    threads = max((library.num_threads for library in blas.lib_controllers), default=1)
    threads = min(threads, at_most or threads)

    def begin() -> None:
        blas.limit(limits=1)  # a BLAS on OpenMP counts each thread apart (the one that FAISS brings)

    with blas.limit(limits=1), ThreadPoolExecutor(threads, initializer=begin) as pool:
        return list(pool.map(work, items))
