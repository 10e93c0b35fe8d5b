"""ccp-ray status URI: what is finished, how far the rest is and how fast, from the store alone. Needs no Ray.

With --follow it looks again and again, until all is finished (`jobs.status_follow`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from ccp_ray.artifact import Artifact, find_artifact
from ccp_ray.errors import UsageError
from ccp_ray.outputs import outputs, outputs_at, read_request
from ccp_ray.standing import Stage, Standing, standing
from ccp_ray.storage import Store, open_store
from ccp_ray.training_standing import training_standing
from jobs.columns import columns
from jobs.command import AsJson, main, print_json, reported
from jobs.pipeline_stages import read_stages
from jobs.plan import duration
from jobs.status_follow import follow, shown_live, shown_plain

_INDENT = " " * 12
_NAMED = 6  # languages; of more only the number is said
_AT_ONCE = 8  # outputs that are looked at
Row = dict[str, Any]


def status(
    uri: str,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Look again until all is finished.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 5.0,
    exact: Annotated[
        bool, typer.Option("--exact", help="List every piece of large outputs on S3, and do not take the job's word.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the artifacts at and below a URI and how far each is: pieces, rows, speed, time left, rows put aside."""
    with reported():
        if follow_:
            known: dict[str, Row] = {}
            shown = _shown_json if as_json else shown_live() or shown_plain
            follow(lambda: look(uri, known, exact), shown, every)
            return
        rows = look(uri, {}, exact)
    if as_json:
        print_json({"status": rows})
        return
    for row in rows:
        print(f"{row['state']:<11} {row['kind'] or '':<12} {row['uri']}{_finished(row)}")
        for line in _unfinished(row):
            print(_INDENT + line)


def _shown_json(looks: Iterator[list[Row]]) -> None:
    """An object a line for each look."""
    for rows in looks:
        print_json({"status": rows})


def look(uri: str, known: dict[str, Row], exact: bool = False) -> list[Row]:
    """A row for each output at and below a URI; of a pipeline also for the stages that have not begun.

    known: finished ones of earlier looks by URI, which are not read again; it is added to. Raises UsageError where
    there is nothing.
    """
    store = open_store(uri)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(lambda place: known.get(place) or _looked_at(place, exact), _places(store)))
    rows = [row for row in rows if row]
    if not rows:
        raise UsageError(f"{uri}: no artifact and no job here")
    known |= {row["uri"]: row for row in rows if row["state"] == "finished"}
    return rows


def _places(store: Store) -> list[str]:
    """Outputs in order, and places of a pipeline's stages that are none yet. A pipeline need not be listed."""
    stages = read_stages(store)
    if not stages:
        return outputs(store)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda stage: outputs_at(store, stage) or [store.uri(stage)], stages)
        return [place for places in found for place in places]


def _looked_at(uri: str, exact: bool) -> Row:
    try:
        return describe(uri, exact)
    except FileNotFoundError:  # not begun; or a job that its input refused took its output away meanwhile
        return {"uri": uri, "kind": None, "state": "waiting"}


def describe(uri: str, exact: bool = False) -> Row:
    """State, kind and figures of one output. Raises FileNotFoundError where there is none."""
    artifact = find_artifact(uri)
    if artifact is not None:
        return _described(uri, artifact)
    row = {"uri": uri, "kind": read_request(uri).kind, "state": "unfinished"}
    store = open_store(uri)
    trained = training_standing(store) if row["kind"] == "encoder" else None
    now = standing(store, seen=time.time() - trained.age_s if trained else None, exact=exact or None)
    return row | _standing(now) | ({"training": trained._asdict()} if trained else {})


def _described(uri: str, artifact: Artifact) -> Row:
    place = {"uri": uri, "kind": artifact.kind, "state": "finished"}
    return place | {"fingerprint": artifact.fingerprint, "summary": artifact.summary}


def _standing(now: Standing) -> Row:
    stages = {stage.name: _figures(stage, now.active) for stage in now.stages}
    return {
        "committed": now.committed,
        "stages": stages,
        "quarantined": now.quarantined,
        "last_commit_s": now.idle_s,
        "active": now.active,
        "noted_s": now.noted_s,
    }


def _figures(stage: Stage, active: bool) -> Row:
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
    if len(summary.get("precision", ())) > 1 and row["kind"] == "embeddings":
        what += f", of mixed precision ({' and '.join(summary['precision'])})"
    return f"  {what}{', ' if what else ''}fingerprint {row['fingerprint'][:12]}"


def _unfinished(row: Mapping[str, Any]) -> Iterator[str]:
    """The lines below an unfinished output: one a stage, in columns, and one about the whole."""
    if row["state"] != "unfinished":
        return
    yield from columns([_cells(name, figures) for name, figures in row["stages"].items()])
    if "training" in row:
        yield _training(row["training"], row["active"])
    yield "; ".join(_remarks(row))


def _training(now: Mapping[str, Any], active: bool) -> str:
    left = f", {duration(now['left_s'])} left" if active else ""
    speed = f"loss {now['loss']:.3f}, {now['tokens_per_s']:,.0f} tokens/s"
    return f"step {now['step']:,} of {now['steps']:,}, {speed}{left} ({duration(now['age_s'])} ago)"


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
    if row["noted_s"] is not None:
        yield f"by the job's own word of {duration(row['noted_s'])} ago (--exact lists every piece)"
    idle_s = row["last_commit_s"]
    silence = "" if row["active"] else ", nobody seems to work on it: run its job again to continue"
    yield ("nothing committed yet" if idle_s is None else f"last commit {duration(idle_s)} ago") + silence


if __name__ == "__main__":
    main(status)
