"""What a FAISS factory string makes: read from the empty index itself, so any string is judged, not a list of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ccp_ray.errors import UsageError

EXACT = ("Flat", "SQfp16")  # every stored vector is compared, in the precision in which it is stored
_MOST_PROBES = 512
_EF_SEARCH = (16, 32, 64, 128, 256, 512)


class Anatomy(NamedTuple):
    """Of an index: what a row and a shard cost, what training asks for, how search trades speed for recall."""

    row_bytes: float
    shard_bytes: float
    least_train_rows: int
    lists: int
    graph: bool
    trained: bool
    merges: bool

    def bytes(self, rows: int, shards: int) -> int:
        """Of all shards together. Each has centroids and codebooks of its own: a shard is searched alone.

        Headers of files, some hundred bytes each, are left out.
        """
        return int(rows * self.row_bytes + shards * self.shard_bytes)

    @property
    def ladder(self) -> list[str]:
        """Search parameters to try, cheapest first; one empty string where there are none."""
        if self.lists:
            most = min(self.lists, _MOST_PROBES)
            return [f"nprobe={n}" for n in sorted({2**n for n in range(most.bit_length())} | {most})]
        return [f"efSearch={n}" for n in _EF_SEARCH] if self.graph else [""]


@contextlib.contextmanager
def faiss_errors(factory: str) -> Iterator[None]:
    """Turns what FAISS refuses into a UsageError that names the factory string."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        why = re.sub(r"^.*\.(cpp|h):\d+: (Error: '.*' failed: )?", "", said)  # without FAISS' own file and line
        raise UsageError(f"factory={factory}: FAISS refuses it ({why})") from error


def empty_index(factory: str, dimensions: int) -> Any:
    """The index of a factory string, without rows. Raises UsageError where it cannot hold these vectors."""
    import faiss

    with faiss_errors(factory):
        built = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
    if built.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise UsageError(f"factory={factory}: FAISS makes it for L2 distance only, not for inner product")
    if isinstance(built, faiss.IndexIDMap | faiss.IndexIDMap2):
        raise UsageError(f"factory={factory}: leave out the IDMap; rows are numbered, and ids stand beside them")
    if re.search(r"(^|,)IVF0\b", factory):
        raise UsageError(f"factory={factory}: an IVF needs at least one list")
    return built


def anatomy(factory: str, dimensions: int) -> Anatomy:
    """Of a factory string. Raises UsageError as `empty_index`, and for kinds that cannot be added to piece by piece."""
    built = empty_index(factory, dimensions)
    if not _countable(built):
        raise UsageError(f"factory={factory}: cannot be built piece by piece; use Flat, SQ, PQ, IVF or HNSW")
    row, shard, least = _costs(built)
    trained = bool(built.is_trained)
    return Anatomy(row, shard, max(least, int(not trained)), _lists(built), is_graph(built), trained, _merges(built))


def set_parameters(built: Any, parameters: str) -> None:
    """Apply a ParameterSpace string. Raises UsageError for one that the index does not know."""
    import faiss

    if not parameters:
        return
    try:
        faiss.ParameterSpace().set_index_parameters(built, parameters)  # type: ignore[arg-type]
    except RuntimeError:
        known = "nprobe" if _lists(built) else "efSearch" if is_graph(built) else "none"
        raise UsageError(f"search_parameters={parameters}: this index does not know it (it has {known})") from None


def _countable(built: Any) -> bool:
    import faiss

    inner = faiss.downcast_index(built.index) if isinstance(built, faiss.IndexPreTransform) else built
    return isinstance(inner, faiss.IndexFlatCodes | faiss.IndexIVF | faiss.IndexHNSW | faiss.IndexRefine)


def _costs(built: Any) -> tuple[float, float, int]:
    """Bytes a row, bytes a shard, rows that training needs at least."""
    import faiss

    built = faiss.downcast_index(built)
    if isinstance(built, faiss.IndexPreTransform):
        row, shard, least = _costs(built.index)
        return row, shard + 4.0 * built.d * built.index.d, least
    if isinstance(built, faiss.IndexRefine):
        both = _costs(built.base_index), _costs(built.refine_index)
        return both[0][0] + both[1][0], both[0][1] + both[1][1], max(both[0][2], both[1][2])
    if isinstance(built, faiss.IndexHNSW):
        row, shard, least = _costs(built.storage)
        # Links of level 0; those above come to a link in M of level 1; a level and an offset.
        links = built.hnsw.nb_neighbors(0)  # type: ignore[attr-defined]
        return row + 4.0 * links + 4 + 12, shard, least
    codebook, least = _codebook(built)
    if isinstance(built, faiss.IndexIVF):
        return built.code_size + 8.0, codebook + 4.0 * built.nlist * built.d, max(least, built.nlist)
    return float(built.code_size), codebook, least


def _codebook(built: Any) -> tuple[float, int]:
    if hasattr(built, "pq"):
        return 4.0 * built.pq.ksub * built.d, int(built.pq.ksub)
    additive = next((getattr(built, name) for name in ("rq", "lsq", "prq", "plsq") if hasattr(built, name)), None)
    if additive is not None:
        return 4.0 * additive.total_codebook_size * built.d, 2 ** max(additive.nbits.at(i) for i in range(additive.M))
    return (8.0 * built.d if hasattr(built, "sq") else 0.0), 0


def _lists(built: Any) -> int:
    import faiss

    inner = faiss.try_extract_index_ivf(built)
    return int(inner.nlist) if inner is not None else 0


def is_graph(built: Any) -> bool:
    """Whether rows are linked as they are added (HNSW), so that their order and the threads matter."""
    import faiss

    built = faiss.downcast_index(built)
    if isinstance(built, faiss.IndexPreTransform):
        return is_graph(built.index)
    return isinstance(built, faiss.IndexHNSW) or (isinstance(built, faiss.IndexRefine) and is_graph(built.base_index))


def _merges(built: Any) -> bool:
    import faiss

    if _lists(built):  # FAISS compares the centroids of these, which are not there before training
        return not isinstance(built, faiss.IndexRefine)
    try:
        built.check_compatible_for_merge(built)
    except RuntimeError:
        return False
    return True
