"""ccp-ray gc URI: what killed runs and failed uploads left in artifacts, and away with it. Needs no Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ccp_ray.errors import UsageError
from ccp_ray.orphans import Orphan, Orphans, delete_orphans, find_orphans
from ccp_ray.outputs import outputs
from ccp_ray.storage import open_store
from jobs.command import AsJson, main, print_json, reported
from jobs.plan import duration, megabytes

_SHOWN = 10


def gc(
    uri: str,
    delete: Annotated[bool, typer.Option("--delete", help="Delete those that are old enough.")] = False,
    older_than: Annotated[
        float, typer.Option(min=0, help="Hours; a job that still runs may need what is younger.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """List what no artifact and no job at and below a URI needs; with --delete, delete it.

    Objects that neither a manifest nor the ledger names, working files of finished jobs, unfinished writes and
    multipart uploads. An unfinished output that was written to within these hours is left alone.
    """
    with reported():
        moment = time.time() - 3600 * older_than
        places = outputs(open_store(uri))
        if not places:
            raise UsageError(f"{uri}: no artifact and no job here; only what is in their folders can be judged")
        found = [find_orphans(place, _below(place, places)) for place in places]
        old = [delete_orphans(each, moment) if delete else each.older(moment) for each in found]
    if as_json:
        print_json(_figures(found, old, delete))
        return
    for each in found:
        _show(each)
    print(_conclusion(found, old, delete, older_than))


def _below(place: str, places: Sequence[str]) -> list[str]:
    return [other for other in places if other.startswith(f"{place}/")]


def _show(found: Orphans) -> None:
    if found.orphans:
        print(f"{found.uri}: {_count(found.orphans)}" + ("" if found.finished else ", unfinished"))
    for orphan in found.orphans[:_SHOWN]:
        age = duration(max(0.0, time.time() - orphan.found.modified))
        print(f"  {orphan.found.key}  {megabytes(orphan.found.bytes)}, {age} old, {orphan.why}")
    if len(found.orphans) > _SHOWN:
        print(f"  and {len(found.orphans) - _SHOWN:,} more")


def _conclusion(found: Sequence[Orphans], old: Sequence[Sequence[Orphan]], deleted: bool, hours: float) -> str:
    every = [orphan for each in found for orphan in each.orphans]
    going = [orphan for each in old for orphan in each]
    if not every:
        return "no orphans"
    if deleted:
        return f"{_count(going)} deleted, {len(every) - len(going):,} left"
    may_go = f"{len(going):,} of them may go: nobody wrote there for {hours:g} hours; --delete deletes them"
    return f"{_count(every)}; {may_go if going else f'none may go yet (--older-than {hours:g})'}"


def _count(orphans: Sequence[Orphan]) -> str:
    return f"{len(orphans):,} orphan{'s' * (len(orphans) != 1)} of {megabytes(sum(o.found.bytes for o in orphans))}"


def _figures(found: Sequence[Orphans], old: Sequence[Sequence[Orphan]], deleted: bool) -> dict[str, Any]:
    """deletable: what --delete deletes now, or has deleted."""
    rows = [
        {
            "uri": each.uri,
            "state": "finished" if each.finished else "unfinished",
            "orphans": [
                {"key": orphan.found.key, "bytes": orphan.found.bytes, "why": orphan.why, "deletable": orphan in going}
                for orphan in each.orphans
            ],
        }
        for each, going in zip(found, map(set, old), strict=True)
    ]
    return {"outputs": rows, "deleted": deleted}


if __name__ == "__main__":
    main(gc)
