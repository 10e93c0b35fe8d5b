"""How far an unfinished output is, from its store alone and without reading an entry a piece.

One listing of the ledger (1,000 names a request on S3) gives what is committed and when (of a stage of many pieces
on S3 the driver's last word does, `piece_notes`); `_plan/STAGE.json`, left by
the run, gives the pieces and their rows. Pieces that put rows aside have a file below `quarantine/`; only their entries
are read. Speed is that of the last ten minutes before the last commit, or since the commit before it where pieces take
longer; so after a pause the first two slow pieces make it look slower than it is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ccp_ray.artifact import JOB
from ccp_ray.config import StrictModel
from ccp_ray.errors import DamagedError
from ccp_ray.ledger import Ledger
from ccp_ray.piece_notes import Note, piece_notes
from ccp_ray.storage import LocalStore, Store

_PLANS, _QUARANTINE, _COPIED = "_plan/", "quarantine/", "reuse"
_MANY = 5_000  # pieces of a stage, from which on listing them takes seconds on S3
_AT_ONCE = 16  # entries that are read
_RECENT_S = 600.0  # the past that speed is measured over
_FEW = 3  # commits in that past, from which on it is a measure
_SILENT_S, _SILENT_GAPS = 1800.0, 3  # no commit for so long, and for so many times the usual gap: nobody works on it


class PlanFile(StrictModel):
    """What a run leaves of a stage: its pieces with their rows, 0 where they are not known before."""

    pieces: dict[str, int]


class Plan(NamedTuple):
    """Rows of each piece, and when the first run wrote the plan."""

    rows: Mapping[str, int]
    written: float


class Stage(NamedTuple):
    """Pieces and rows of one stage; None: not known. Times in seconds."""

    name: str
    committed: int
    planned: int | None
    rows: int | None
    planned_rows: int | None
    rows_per_s: float | None
    left_s: float | None


class Standing(NamedTuple):
    """Stages in the order they began. idle_s: since the last commit; None: there is none. noted_s: how old the
    driver's word is, where it was taken for the ledger."""

    stages: list[Stage]
    quarantined: int
    idle_s: float | None
    active: bool
    noted_s: float | None = None

    @property
    def committed(self) -> dict[str, int]:
        """Committed pieces by stage, in name order."""
        return dict(sorted((stage.name, stage.committed) for stage in self.stages if stage.committed))


def standing(store: Store, now: float | None = None, seen: float | None = None, exact: bool | None = None) -> Standing:
    """How far the output at this root is. now: seconds since 1970. seen: when a sign of life was, besides what is here.

    exact: whether to list the ledger of large stages instead of taking their driver's last word (`piece_notes`); by
    default on a disk, where listing costs microseconds a name. Raises DamagedError for an unreadable plan.
    """
    now = time.time() if now is None else now
    exact = isinstance(store, LocalStore) if exact is None else exact
    plans = dict(_plans(store))
    notes = piece_notes(store, [] if exact else [name for name, plan in plans.items() if len(plan.rows) > _MANY])
    commits = _commits(store, notes)
    began = {name: plan.written for name, plan in plans.items()}
    began |= {name: min(times.values()) for name, times in commits.items() if name not in plans}
    copied = commits.get(_COPIED, {}).keys()
    names = sorted(began, key=lambda name: began[name])
    stages = [
        _noted(name, notes[name], plans[name])
        if name in notes
        else _stage(name, commits.get(name, {}), plans.get(name), copied)
        for name in names
    ]
    noted = [note.when for note in notes.values()]
    last = max([*noted, *(when for times in commits.values() for when in times.values())], default=None)
    idle_s = None if last is None else max(0.0, now - last)
    signs = [*began.values(), *(info.modified for info in store.list(JOB)), *noted, *([] if seen is None else [seen])]
    quarantined = _quarantined(store, commits, {name: plans[name].rows for name in notes})
    noted_s = max(0.0, now - min(noted)) if noted else None
    return Standing(stages, quarantined, idle_s, _active(now, commits, signs), noted_s)


def _commits(store: Store, notes: Mapping[str, Note]) -> dict[str, dict[str, float]]:
    """When each piece of each stage was committed, without the stages that there are notes of."""
    commits: dict[str, dict[str, float]] = {}
    if notes:
        others = [name for name in store.folders("_ledger") if name not in notes]
        return {name: Ledger(store, f"_ledger/{name}").times() for name in others}
    for name, when in Ledger(store).times().items():
        stage, _, piece = name.rpartition("/")
        commits.setdefault(stage or "pieces", {})[piece] = when
    return commits


def _noted(name: str, note: Note, plan: Plan) -> Stage:
    """Rows by the share of the pieces."""
    total, planned = sum(plan.rows.values()), len(plan.rows)
    if not total:
        return Stage(name, note.done, planned, None, None, None, None)
    rows, speed = total * note.done // planned, note.rows_per_s or None
    return Stage(name, note.done, planned, rows, total, speed, (total - rows) / speed if speed else None)


def _plans(store: Store) -> Iterator[tuple[str, Plan]]:
    for info in store.list(_PLANS):
        try:
            rows = PlanFile.model_validate_json(store.read(info.key)).pieces
        except ValueError:
            raise DamagedError(
                f"{store.uri(info.key)}: damaged plan; delete this object and run the job again"
            ) from None
        yield info.key.removeprefix(_PLANS).removesuffix(".json"), Plan(rows, info.modified)


def _stage(name: str, times: Mapping[str, float], plan: Plan | None, copied: Collection[str]) -> Stage:
    if plan is None:
        return Stage(name, len(times), None, None, None, None, None)
    done = {piece: when for piece, when in times.items() if piece in plan.rows}
    total = sum(plan.rows.values())
    if not total:
        return Stage(name, len(done), len(plan.rows), None, None, None, None)
    rows = sum(plan.rows[piece] for piece in done)
    made = [(when, plan.rows[piece]) for piece, when in done.items() if piece not in copied]
    speed = recent_speed(made, plan.written)  # copies of an earlier output's pieces say nothing of the time left
    return Stage(name, len(done), len(plan.rows), rows, total, speed, (total - rows) / speed if speed else None)


def recent_speed(commits: list[tuple[float, int]], begun: float) -> float | None:
    """Rows a second from commits (when, rows): those after a moment that is itself a commit, or the beginning."""
    if not commits:
        return None
    last = max(when for when, _ in commits)
    recent = [when for when, _ in commits if when > last - _RECENT_S]
    before = [when for when, _ in commits if when <= last - _RECENT_S]
    since = min(recent) if len(recent) >= _FEW and min(recent) < last else max(before, default=begun)
    span = last - since
    return sum(rows for when, rows in commits if when > since) / span if span > 0 else None


def _active(now: float, commits: Mapping[str, Mapping[str, float]], signs: Collection[float]) -> bool:
    """Whether the last sign of life is no older than the gaps between commits of the stage at work let expect."""
    if not signs:
        return False
    when = sorted(max(commits.values(), key=lambda times: max(times.values())).values()) if commits else []
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(when))
    usual = gaps[int(0.9 * (len(gaps) - 1))] if gaps else 0.0  # workers in step commit in bursts; pauses are rare
    return now - max([*signs, *when[-1:]]) <= max(_SILENT_S, _SILENT_GAPS * usual)


def _quarantined(
    store: Store, commits: Mapping[str, Mapping[str, float]], unlisted: Mapping[str, Mapping[str, int]]
) -> int:
    """Rows put aside by the committed pieces. unlisted: pieces of stages of which `commits` does not know them."""
    files = {info.key.removeprefix(_QUARANTINE).removesuffix(".jsonl") for info in store.list(_QUARANTINE)}
    ledger = Ledger(store)
    names = [f"{stage}/{piece}" for stage, times in commits.items() for piece in times if piece in files]
    asked = [f"{stage}/{piece}" for stage, pieces in unlisted.items() for piece in pieces if piece in files]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        names += [name for name, there in zip(asked, pool.map(ledger.has, asked), strict=True) if there]
        return sum(entry.quarantined for entry in pool.map(ledger.read, names))
