"""Multilingual dense retrieval without parallel text, as resumable jobs on Ray.

For those who only want the results: `ccp_ray.Embeddings` and `ccp_ray.Index` read what the jobs wrote
(docs/reading.md). They are imported when they are first asked for: what needs neither does not load them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccp_ray.embeddings import Embeddings
    from ccp_ray.search import Index

__all__ = ["Embeddings", "Index"]


def __getattr__(name: str) -> Any:
    if name == "Embeddings":
        from ccp_ray.embeddings import Embeddings

        return Embeddings
    if name == "Index":
        from ccp_ray.search import Index

        return Index
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
