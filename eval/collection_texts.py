"""The passages of a collection in memory: what baselines rank, and the texts that a score needs.

Read by the readers of `embed`, so all its formats work. Memory: ids and texts, about 1 KB a passage.
"""

from __future__ import annotations

from collections.abc import Collection as Ids
from collections.abc import Iterator
from typing import NamedTuple

from ccp_ray.artifact import find_artifact
from ccp_ray.documents import find_documents, plan_splits
from ccp_ray.errors import DataError
from ccp_ray.passages import joined
from ccp_ray.records import BadRow, Record, check_bad_rows, read_split

_REQUIRED = ("id", "text")
_MAX_BAD_SHARE = 0.01  # as `embed` has it


class Passages(NamedTuple):
    """ids [N]; texts [N] without titles; full [N]: what an encoder sees, with titles."""

    ids: list[str]
    texts: list[str]
    full: list[str]


def read_collection(uri: str) -> Passages:
    """All passages. Raises UsageError for a missing file, DataError for too many bad rows or an id given twice."""
    found = Passages([], [], [])
    for record, titled in _records(uri):
        found.ids.append(record.id)
        found.texts.append(record.text)
        found.full.append(joined(record.title, record.text) if titled else record.text)
    if not found.ids:
        raise DataError(f"{uri}: no passages")
    if len(set(found.ids)) < len(found.ids):
        seen: set[str] = set()
        twice = next(id for id in found.ids if id in seen or seen.add(id))  # type: ignore[func-returns-value]
        raise DataError(f"{uri}: passage id {twice!r} comes twice; ids must be unique in a collection")
    return found


def texts_of(uri: str, ids: Ids[str]) -> dict[str, str]:
    """{id: text without title} of these passages, streamed: memory is that of the chosen texts.

    Raises DataError naming an id that the collection lacks.
    """
    wanted = set(ids)
    found = {record.id: record.text for record, _ in _records(uri) if record.id in wanted}
    if len(found) < len(wanted):
        raise DataError(f"{uri}: no passage {min(wanted - found.keys())!r}, which a run names")
    return found


def first_language(uri: str) -> str | None:
    """The language that the first row names (`UNNAMED` where it names none); None for a corpus, which names its own."""
    artifact = find_artifact(uri)
    if artifact is not None and artifact.kind == "corpus":
        return None
    return next((record.lang for record, _ in _records(uri)), None)


def _records(uri: str) -> Iterator[tuple[Record, bool]]:
    """(record, whether its title belongs to what is encoded)."""
    good, bad, first = 0, 0, None
    for split in plan_splits(find_documents([uri])):
        for row in read_split(split, _REQUIRED):
            if isinstance(row, BadRow):
                bad, first = bad + 1, first or row
            else:
                good += 1
                yield row, split.format == "tsv"
    check_bad_rows(bad, good + bad, _MAX_BAD_SHARE, first)
