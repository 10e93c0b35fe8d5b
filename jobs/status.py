"""ccp-ray status URI: what is finished, what is in progress, from the store alone. Needs no Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ccp_ray.artifact import JOB, MANIFEST, Request, find_artifact
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import Ledger
from ccp_ray.storage import Store, open_store
from jobs.command import AsJson, main, print_json, reported


def status(uri: str, as_json: AsJson = False) -> None:
    """Show the artifacts at and below a URI and how far each is."""
    with reported():
        rows = [describe(place) for place in places(open_store(uri))]
        if not rows:
            raise UsageError(f"{uri}: no artifact and no job here")
    if as_json:
        print_json({"status": rows})
        return
    for row in rows:
        done = ", ".join(f"{count:,} {stage}" for stage, count in row["committed"].items())
        print(f"{row['state']:<11} {row['kind']:<12} {row['uri']}" + (f"  ({done} committed)" if done else ""))


def describe(uri: str) -> dict[str, Any]:
    """State, kind and committed pieces by stage of one output."""
    store = open_store(uri)
    artifact = find_artifact(uri)
    request = artifact or _job(store)
    stages = Counter(name.rpartition("/")[0] or "pieces" for name in Ledger(store).committed())
    state = "finished" if artifact else "unfinished"
    row: dict[str, Any] = {"uri": uri, "kind": request.kind, "state": state, "committed": dict(sorted(stages.items()))}
    return row | ({"fingerprint": artifact.fingerprint, "summary": artifact.summary} if artifact else {})


def _job(store: Store) -> Request:
    try:
        return Request.model_validate_json(store.read(JOB))
    except ValueError:
        raise DataError(f"{store.uri(JOB)}: not written by this program, or damaged; remove the folder") from None


def places(store: Store) -> list[str]:
    """Folders at or below the root that hold a job or an artifact."""
    keys = (info.key for info in store.list())
    folders = {key.rpartition("/")[0] for key in keys if key.rpartition("/")[2] in (JOB, MANIFEST)}
    return [store.uri(folder).rstrip("/") for folder in sorted(folders)]


if __name__ == "__main__":
    main(status)
