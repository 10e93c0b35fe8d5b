"""Which objects a file, folder or glob names, on any store."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from ccp_ray.storage import open_store, split_uri


def expand(uri: str) -> list[str]:
    """The objects that a file, folder or glob names, as URIs in key order; empty if none.

    `*`, `?` and `[` match within one part of the path, `**` any number of parts; a folder stands for all that
    lies in it. Names that start with `.` or `_` are left out unless they are named.
    """
    is_bucket = uri.startswith("s3://") and "/" not in uri[5:].rstrip("/")
    if not is_bucket:
        store, key = split_uri(uri)
        if store.size(key) is not None:
            return [store.uri(key)]
    parts = uri.split("/")
    plain = next((i for i, part in enumerate(parts) if _is_pattern(part)), len(parts))
    if plain == len(parts):
        folder = open_store(uri)
        return [folder.uri(info.key) for info in folder.list() if not _hidden(info.key.split("/"))]
    store = open_store("/".join(parts[:plain]) or ("/" if uri.startswith("/") else "."))
    pattern = [part for part in parts[plain:] if part]
    return [store.uri(info.key) for info in store.list() if _matches(info.key.split("/"), pattern)]


def _is_pattern(part: str) -> bool:
    return any(mark in part for mark in "*?[")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the path, or a folder above it, matches the pattern part by part."""
    if not pattern:
        return not _hidden(parts)
    if pattern[0] == "**":
        inner = (i for i in range(len(parts) + 1) if not _hidden(parts[:i]))
        return any(_matches(parts[i:], pattern[1:]) for i in inner)
    if not parts or not fnmatch.fnmatchcase(parts[0], pattern[0]):
        return False
    return (pattern[0][0] in "._" or not _hidden(parts[:1])) and _matches(parts[1:], pattern[1:])


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)
