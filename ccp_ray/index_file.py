"""Reading FAISS' own files: an index holds its vectors itself, and never sends the reader to another file.

FAISS has inverted lists that lie elsewhere (OnDiskInvertedLists): the index file holds their path, and reading the
index opens whatever is there. We write none, so a file with them was made to read something of the reader's; it is
refused, however deep in the index they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccp_ray.errors import DataError

_PARTS = ("index", "base_index", "refine_index", "quantizer")  # of IndexPreTransform, IndexRefine, IndexIVF


def read_index(path: Path, where: str, flags: int = 0) -> Any:
    """The index in a file that came from `where`. Raises DataError where it cannot be read or points elsewhere."""
    import faiss

    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise DataError(f"{where}: FAISS cannot read this file; build the index again") from error
    if any(_lies_elsewhere(part) for part in _parts(index)):
        raise DataError(f"{where}: its inverted lists lie in a file elsewhere, which is never opened; build it again")
    return index


def _parts(index: Any) -> Iterator[Any]:
    import faiss

    index = faiss.downcast_index(index)
    yield index
    for name in _PARTS:
        part = getattr(index, name, None)
        if isinstance(part, faiss.Index):
            yield from _parts(part)


def _lies_elsewhere(index: Any) -> bool:
    import faiss

    lists = getattr(index, "invlists", None)
    return lists is not None and isinstance(faiss.downcast_InvertedLists(lists), faiss.OnDiskInvertedLists)
