"""Run a plan of pieces as Ray Data tasks, exactly once by the ledger.

`work(name, payload)` runs in a task, writes the piece's files and returns its entry; the entry is committed
in the same task. Pieces that are committed already are not run. Ray retries a task whose worker or node died;
an exception of `work` itself ends the run with that exception, and what was committed stays.

Two runs of one output share the work: a run that did not start the output begins at a piece chosen by chance, and each
looks whether a piece has been committed meanwhile before it begins it (one small request). So what two runs do twice is
at most the pieces that both had under way at one time.

An input that is refused (DataError, UsageError) or was altered (DamagedError) ends the run when the pieces under way
have ended, and no other is begun: whoever then removes the output must not meet a task that still writes to it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ccp_ray.artifact import Output, stopped
from ccp_ray.errors import CcpError, DamagedError, DataError, UsageError, carry, raise_carried
from ccp_ray.faults import reach
from ccp_ray.ledger import Entry, Ledger
from ccp_ray.log_fields import log_fields
from ccp_ray.piece_telemetry import LAG, ROWS, PieceTelemetry
from ccp_ray.process_metrics import observe_lag
from ccp_ray.progress import Meter, say
from ccp_ray.storage import Store, open_store, storage_full
from ccp_ray.store_watch import watched

Work = Callable[[str, Any], Entry]
Task = Callable[[dict[str, Any]], dict[str, Any]]
Check = Callable[[Mapping[str, Entry]], None]
# What a task returns for a piece that it leaves alone; the run that said so has an error to raise already.
NOT_BEGUN = {"entry": "", "error": carry(CcpError("a run of this output is just ending; run again"))}


def run_pieces(
    output: Output,
    stage: str,
    plan: Mapping[str, Any],
    work: Work,
    *,
    rows: Mapping[str, int] | None = None,
    check: Check | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> dict[str, Entry]:
    """Commit every piece of `plan` (name -> payload) and return the entries in plan order.

    Entries live under `_ledger/<stage>/`. `rows`: of each piece, where they are known, for `status`. `check` sees the
    entries so far after each piece and may raise to stop early. `cpus` and `gpus` are reserved for each task.
    """
    ledger = Ledger(output.store, f"_ledger/{stage}")
    todo = outstanding(output, stage, rows or dict.fromkeys(plan, 0))
    done = ledger.entries(among=plan.keys() - set(todo)) if check else {}
    if todo:

        def task(row: dict[str, Any]) -> dict[str, Any]:
            with log_fields(run=output_uri, stage=stage, piece=row["name"]):
                try:
                    store = open_store(output_uri)
                    over = settled(store, ledger_folder, row["name"])
                    if over is not None:
                        return over
                    entry = work(row["name"], row["payload"])
                    ready = time.time()
                    reach("piece.worked", stage)
                    committed = commit(Ledger(store, ledger_folder), row["name"], entry, stage, ready)
                    reach("piece.committed", stage)
                    return committed
                except CcpError as error:
                    return failed(row["name"], error)
                except OSError as error:
                    full = storage_full(error)
                    if full is None:
                        raise
                    return failed(row["name"], full)

        task.__name__ = stage  # what Ray's dashboard calls the operator: Map(tokens)
        output_uri, ledger_folder = output.uri, ledger.folder
        items = [{"name": name, "payload": plan[name]} for name in todo]
        before = len(plan) - len(todo)
        meter = Meter(stage, total=len(plan), unit="pieces", done=before)
        telemetry = PieceTelemetry(output.uri, stage, len(plan), before)
        with log_fields(run=output.uri, stage=stage), meter, telemetry:

            def accept(name: str, entry: Entry) -> None:
                done[name] = entry
                meter.update()
                if check:
                    check(done)
                reach("piece.collected", stage)

            stream = _stream(f"{output.request.kind}_{stage}", items, task, cpus, gpus)
            collect(telemetry.through(stream), output, accept)
    return done_in_order(ledger, plan, done)


def _stream(name: str, items: list[dict[str, Any]], task: Task, cpus: float, gpus: float) -> Iterable[dict[str, Any]]:
    """The task's answers, as they come."""
    import ray.data

    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset = dataset.map(task, num_cpus=cpus, num_gpus=gpus or None)
    dataset.set_name(name)
    rows: Iterable[dict[str, Any]] = dataset.iter_rows()
    return rows


def outstanding(output: Output, stage: str, rows: Mapping[str, int]) -> list[str]:
    """Names of the pieces (name -> rows) that are left, from one listing, in the order to begin them.

    The plan is left in the store for whoever asks how far the work is.
    """
    output.store.write(f"_plan/{stage}.json", json.dumps({"pieces": dict(rows)}).encode())
    committed = Ledger(output.store, f"_ledger/{stage}").committed()
    left = [name for name in rows if name not in committed]
    if output.fresh or not left:
        return left
    start = random.randrange(len(left))  # noqa: S311 - nothing secret: another run is elsewhere, most likely
    return left[start:] + left[:start]


def settled(store: Store, ledger_folder: str, name: str) -> dict[str, Any] | None:
    """What to return for a piece that is not to be begun: committed by another run, or the run is ending."""
    ledger = Ledger(store, ledger_folder)
    if ledger.has(name):
        return {"name": name, "entry": ledger.read(name).model_dump_json(), "error": ""}
    return NOT_BEGUN | {"name": name} if stopped(store) else None


def failed(name: str, error: CcpError) -> dict[str, Any]:
    """What a task returns for a piece that ended with an error that a person can act on; also told where it was."""
    say(str(error), level="error")
    return {"name": name, "entry": "", "error": carry(error)}


def commit(ledger: Ledger, name: str, entry: Entry, stage: str, ready: float) -> dict[str, Any]:
    """Commit a piece; what `collect` reads. Where another writer was first, its entry stands.

    ready: when there was all that it needed (seconds since 1970); the lag from then on is measured.
    """
    if not ledger.commit(name, entry):
        entry = ledger.read(name)
    lag = max(0.0, time.time() - ready)
    observe_lag(ledger.store.root, stage, lag)
    say(f"committed, {entry.rows:,} rows", rows=entry.rows, lag_s=round(lag, 3))
    return {"name": name, "entry": entry.model_dump_json(), "error": "", LAG: lag, ROWS: entry.rows}


def done_in_order(ledger: Ledger, plan: Iterable[str], seen: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries of a plan: those that this run saw, and those of runs before it, which are read now."""
    names = list(plan)
    before = set(names) - seen.keys()
    entries = {**seen, **(ledger.entries(among=before) if before else {})}
    return {name: entries[name] if name in entries else ledger.read(name) for name in names}


def collect(rows: Iterable[dict[str, Any]], output: Output, accept: Callable[[str, Entry], None]) -> None:
    """Hand each committed piece of a stream to `accept`, or raise the error that a row carries.

    Rows have `name`, `entry` (JSON) and `error` (`carry`). After a refusal the rest of the stream is waited for.
    """
    refusal: CcpError | None = None
    with watched(output.store):
        for row in rows:
            if refusal is not None:
                continue
            try:
                raise_carried(row["error"])
                accept(row["name"], Entry.model_validate_json(row["entry"]))
            except (DataError, UsageError, DamagedError) as error:
                refusal = error
                output.stop()
    if refusal is not None:
        output.unstop()
        raise refusal
