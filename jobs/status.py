"""ccp-ray status URI: what is finished, how far the rest is and how fast, from the store alone. Needs no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ccp_ray.artifact import Artifact, find_artifact
from ccp_ray.errors import UsageError
from ccp_ray.outputs import outputs, read_request
from ccp_ray.standing import Stage, Standing, standing
from ccp_ray.storage import open_store
from jobs.command import AsJson, main, print_json, reported
from jobs.plan import duration

_INDENT = " " * 12
_NAMED = 6  # languages; of more only the number is said


def status(uri: str, as_json: AsJson = False) -> None:
    """Show the artifacts at and below a URI and how far each is: pieces, rows, speed, time left, rows put aside."""
    with reported():
        rows = [describe(place) for place in outputs(open_store(uri))]
        if not rows:
            raise UsageError(f"{uri}: no artifact and no job here")
    if as_json:
        print_json({"status": rows})
        return
    for row in rows:
        print(f"{row['state']:<11} {row['kind']:<12} {row['uri']}{_finished(row)}")
        for line in _unfinished(row):
            print(_INDENT + line)


def describe(uri: str) -> dict[str, Any]:
    """State, kind and figures of one output."""
    artifact = find_artifact(uri)
    if artifact is not None:
        return _described(uri, artifact)
    row = {"uri": uri, "kind": read_request(uri).kind, "state": "unfinished"}
    return row | _standing(standing(open_store(uri)))


def _described(uri: str, artifact: Artifact) -> dict[str, Any]:
    place = {"uri": uri, "kind": artifact.kind, "state": "finished"}
    return place | {"fingerprint": artifact.fingerprint, "summary": artifact.summary}


def _standing(now: Standing) -> dict[str, Any]:
    stages = {stage.name: _figures(stage, now.active) for stage in now.stages}
    return {
        "committed": now.committed,
        "stages": stages,
        "quarantined": now.quarantined,
        "last_commit_s": now.idle_s,
        "active": now.active,
    }


def _figures(stage: Stage, active: bool) -> dict[str, Any]:
    """Without time left where nobody works on it."""
    figures = stage._asdict() | {"left_s": stage.left_s if active else None}
    return {name: value for name, value in figures.items() if name != "name"}


def _finished(row: Mapping[str, Any]) -> str:
    """What follows the URI of a finished artifact."""
    if row["state"] != "finished":
        return ""
    summary = row["summary"]
    languages = list(summary.get("languages", ()))
    known = f"{len(languages)} languages" if len(languages) > _NAMED else ", ".join(languages)
    rows = f"{summary['rows']:,} rows" if "rows" in summary else ""
    what = " in ".join(part for part in (rows, known) if part)
    return f"  {what}{', ' if what else ''}fingerprint {row['fingerprint'][:12]}"


def _unfinished(row: Mapping[str, Any]) -> Iterator[str]:
    """The lines below an unfinished output: one a stage, in columns, and one about the whole."""
    if row["state"] == "finished":
        return
    cells = [_cells(name, figures) for name, figures in row["stages"].items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
    yield "; ".join(_remarks(row))


def _cells(name: str, stage: Mapping[str, Any]) -> list[str]:
    pieces = f"{stage['committed']:,}" + ("" if stage["planned"] is None else f" of {stage['planned']:,}")
    rows = "" if stage["rows"] is None else f"{stage['rows']:,} of {stage['planned_rows']:,} rows"
    share = f"{100 * stage['rows'] / stage['planned_rows']:.1f} %" if stage["planned_rows"] else ""
    speed = f"{stage['rows_per_s']:,.0f} rows/s" if stage["rows_per_s"] else ""
    left = f"{duration(stage['left_s'])} left" if stage["left_s"] else ""
    return [name, f"{pieces} pieces", rows, share, speed, left]


def _remarks(row: Mapping[str, Any]) -> Iterator[str]:
    if row["quarantined"]:
        yield f"{row['quarantined']:,} rows quarantined"
    idle_s = row["last_commit_s"]
    silence = "" if row["active"] else ", nobody seems to work on it: run its job again to continue"
    yield ("nothing committed yet" if idle_s is None else f"last commit {duration(idle_s)} ago") + silence


if __name__ == "__main__":
    main(status)
