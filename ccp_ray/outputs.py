"""Outputs at and below a URI: folders that hold a finished artifact or an unfinished job.

Below an output only its own sub-folders may be outputs (an evaluation keeps its embeddings so), which two small
requests each tell; so an output of a hundred thousand pieces is not listed to find out that it holds no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from ccp_ray.artifact import JOB, MANIFEST, Request
from ccp_ray.errors import DataError
from ccp_ray.storage import Store, open_store


def outputs(store: Store) -> list[str]:
    """URIs of the outputs at and below the root, in order."""
    found = outputs_at(store, "")
    if found:
        return found
    keys = (info.key for info in store.list())
    folders = {key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] in (JOB, MANIFEST)}
    return [_uri(store, folder) for folder in sorted(folders)]


def outputs_at(store: Store, folder: str) -> list[str]:
    """URIs of the output in a folder and of those below it, in order; none where it is none."""
    if not _is_output(store, folder):
        return []
    return [_uri(store, each) for each in (folder, *_nested(store, folder))]


def _nested(store: Store, folder: str) -> Iterator[str]:
    for name in store.folders(folder):
        below = f"{folder}/{name}".lstrip("/")
        if _is_output(store, below):
            yield below
            yield from _nested(store, below)


def _is_output(store: Store, folder: str) -> bool:
    return any(store.size(f"{folder}/{name}".lstrip("/")) is not None for name in (JOB, MANIFEST))


def _uri(store: Store, folder: str) -> str:
    return store.uri(folder).rstrip("/")


def read_request(uri: str) -> Request:
    """What an output was asked to be. Raises DataError where that is damaged."""
    store = open_store(uri)
    try:
        return Request.model_validate_json(store.read(JOB))
    except ValueError:
        raise DataError(f"{store.uri(JOB)}: not written by this program, or damaged; remove the folder") from None
