"""Run a plan of pieces as Ray Data tasks, exactly once by the ledger.

`work(name, payload)` runs in a task, writes the piece's files and returns its entry; the entry is committed
in the same task. Pieces that are committed already are not run. Ray retries a task whose worker or node died;
an exception of `work` itself ends the run with that exception, and what was committed stays.

An input that is refused (DataError, UsageError) ends the run when the pieces under way have ended, and no other is
begun: whoever then removes the output must not meet a task that still writes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ccp_ray.artifact import Output, stopped
from ccp_ray.errors import CcpError, DataError, UsageError, carry, raise_carried
from ccp_ray.ledger import Entry, Ledger
from ccp_ray.progress import Meter
from ccp_ray.storage import open_store, storage_full

Work = Callable[[str, Any], Entry]
Check = Callable[[Mapping[str, Entry]], None]
# What a task returns for a piece that it leaves alone; the run that said so has an error to raise already.
NOT_BEGUN = {"entry": "", "error": carry(CcpError("a run of this output is just ending; run again"))}


def run_pieces(
    output: Output,
    stage: str,
    plan: Mapping[str, Any],
    work: Work,
    *,
    check: Check | None = None,
    cpus: float = 1,
    gpus: float = 0,
) -> dict[str, Entry]:
    """Commit every piece of `plan` (name -> payload) and return the entries in plan order.

    Entries live under `_ledger/<stage>/`. `check` sees the entries so far after each piece and may raise to
    stop early. `cpus` and `gpus` are reserved for each task.
    """
    ledger = Ledger(output.store, f"_ledger/{stage}")
    done = ledger.entries(among=plan)
    todo = [{"name": name, "payload": payload} for name, payload in plan.items() if name not in done]
    if todo:
        import ray.data

        def task(row: dict[str, Any]) -> dict[str, Any]:
            try:
                store = open_store(output_uri)
                if stopped(store):
                    return NOT_BEGUN | {"name": row["name"]}
                entry = work(row["name"], row["payload"])
                commits = Ledger(store, ledger_folder)
                if not commits.commit(row["name"], entry):
                    entry = commits.read(row["name"])  # another writer was first: its entry stands
            except CcpError as error:
                return {"name": row["name"], "entry": "", "error": carry(error)}
            except OSError as error:
                full = storage_full(error)
                if full is None:
                    raise
                return {"name": row["name"], "entry": "", "error": carry(full)}
            return {"name": row["name"], "entry": entry.model_dump_json(), "error": ""}

        output_uri, ledger_folder = output.uri, ledger.folder
        dataset = ray.data.from_items(todo, override_num_blocks=len(todo)).map(
            task, num_cpus=cpus, num_gpus=gpus or None
        )
        with Meter(stage, total=len(plan), unit="pieces", done=len(done)) as meter:

            def accept(name: str, entry: Entry) -> None:
                done[name] = entry
                meter.update()
                if check:
                    check(done)

            collect(dataset.iter_rows(), output, accept)
    return {name: done[name] for name in plan}


def collect(rows: Iterable[dict[str, Any]], output: Output, accept: Callable[[str, Entry], None]) -> None:
    """Hand each committed piece of a stream to `accept`, or raise the error that a row carries.

    Rows have `name`, `entry` (JSON) and `error` (`carry`). After a refusal the rest of the stream is waited for.
    """
    refusal: CcpError | None = None
    for row in rows:
        if refusal is not None:
            continue
        try:
            raise_carried(row["error"])
            accept(row["name"], Entry.model_validate_json(row["entry"]))
        except (DataError, UsageError) as error:
            refusal = error
            output.stop()
    if refusal is not None:
        output.unstop()
        raise refusal
