"""Pieces on Ray: only what is missing runs, errors keep their type and words, a check can stop the run."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest

from ccp_ray.artifact import Output, Request, open_output
from ccp_ray.errors import CcpError, DamagedError, DataError, StoreError, UsageError
from ccp_ray.ledger import Entry, Ledger, put_bytes
from ccp_ray.pieces import run_pieces
from ccp_ray.storage import LocalStore, open_store

pytestmark = pytest.mark.usefixtures("ray_local")
STAGE = "test"


@pytest.fixture
def output(tmp_path) -> Output:
    opened = open_output(str(tmp_path / "out"), Request(kind="test", config={}))
    assert isinstance(opened, Output)
    return opened


def worker(uri: str, runs: Path):
    """Work that writes one object and leaves a trace of every time that it ran: what Ray calls the process then."""

    def work(name: str, payload: Any) -> Entry:
        runs.mkdir(exist_ok=True)
        (runs / f"{name}-{uuid.uuid4().hex}").write_text(psutil.Process().cmdline()[0])
        record = put_bytes(open_store(uri), f"data/{name}", str(payload).encode())
        return Entry(rows=payload["rows"], files=[record], info={"double": 2 * payload["rows"]})

    return work


def ran(runs: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in runs.iterdir()) if runs.exists() else []


PLAN = {name: {"rows": number} for number, name in enumerate(["p3", "p0", "p2", "p1"])}


def test_each_piece_runs_once_and_only_if_missing(output, tmp_path):
    Ledger(output.store, f"_ledger/{STAGE}").commit("p2", Entry(rows=77))
    Ledger(output.store, f"_ledger/{STAGE}").commit("of another plan", Entry(rows=1))
    runs = tmp_path / "runs"
    entries = run_pieces(output, STAGE, PLAN, worker(output.uri, runs))
    assert ran(runs) == ["p0", "p1", "p3"]
    assert {path.read_text() for path in runs.iterdir()} == {f"ray::Map({STAGE})"}
    assert list(entries) == list(PLAN)
    assert {name: entry.rows for name, entry in entries.items()} == {"p3": 0, "p0": 1, "p2": 77, "p1": 3}
    assert entries["p1"].info == {"double": 6}
    assert output.store.read("data/p1") == b"{'rows': 3}"
    again = run_pieces(output, STAGE, PLAN, worker(output.uri, runs))
    assert ran(runs) == ["p0", "p1", "p3"]  # nothing ran again
    assert again == entries


@pytest.mark.parametrize("kind", [CcpError, DataError, StoreError, UsageError])
def test_an_error_keeps_its_type_and_words_and_what_was_done_stays(output, tmp_path, kind):
    good = worker(output.uri, tmp_path / "runs")
    run_pieces(output, STAGE, {"p0": PLAN["p0"]}, good)

    def work(name: str, payload: Any) -> Entry:
        if name == "p1":
            raise kind("shard x.parquet, row 7: no text; 2 of 3 words: left")
        return good(name, payload)

    with pytest.raises(kind) as caught:
        run_pieces(output, STAGE, PLAN, work)
    assert type(caught.value) is kind
    assert str(caught.value) == "shard x.parquet, row 7: no text; 2 of 3 words: left"
    committed = Ledger(output.store, f"_ledger/{STAGE}").committed()
    assert "p0" in committed
    assert "p1" not in committed
    entries = run_pieces(output, STAGE, PLAN, good)
    assert list(entries) == list(PLAN)


@pytest.mark.parametrize("error", [DataError, UsageError, DamagedError])
def test_a_refusal_waits_for_the_pieces_under_way_and_begins_no_other(output, tmp_path, error):
    runs, plan = tmp_path / "runs", {"bad": None, "slow": None} | {f"later{i}": None for i in range(20)}
    write = worker(output.uri, runs)
    runs.mkdir()

    store = output.store

    def wait_for(ready: Any) -> None:
        give_up = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < give_up
            time.sleep(0.05)

    def work(name: str, _: Any) -> Entry:
        if name == "bad":
            wait_for(lambda: list(runs.glob("slow-*")))
            raise error("no")
        entry = write(name, {"rows": 1})
        if name == "slow":
            wait_for(lambda: store.size("_stop") is not None)
            put_bytes(store, "data/late", b"late")
        return entry

    with pytest.raises(error, match="no"), output.unless_refused():
        run_pieces(output, STAGE, plan, work)
    assert "slow" in ran(runs)
    assert len(ran(runs)) < len(plan) - 1
    if error is DamagedError:  # what was committed stays, and nobody writes any more
        assert output.store.size("_stop") is None
        assert "slow" in Ledger(output.store, f"_ledger/{STAGE}").committed()
    else:
        assert list(output.store.list()) == []


def test_a_stop_that_a_killed_run_left_does_not_hold_the_next(output, tmp_path):
    output.stop()
    again = open_output(output.uri, output.request)
    assert isinstance(again, Output)
    assert len(run_pieces(again, STAGE, PLAN, worker(output.uri, tmp_path / "runs"))) == len(PLAN)


def test_an_error_of_the_program_itself_is_not_hidden(output):
    def work(name: str, payload: Any) -> Entry:
        raise ZeroDivisionError("a bug")

    with pytest.raises(Exception, match="a bug"):
        run_pieces(output, STAGE, {"p0": {}}, work)
    assert Ledger(output.store, f"_ledger/{STAGE}").committed() == set()


def test_a_check_stops_the_run(output, tmp_path):
    seen = []

    def check(entries):
        seen.append(set(entries))
        if sum(entry.rows for entry in entries.values()) >= 1:
            raise DataError("too many bad rows")

    plan = {f"q{i}": {"rows": 1} for i in range(4)}
    with pytest.raises(DataError, match="too many bad rows"):
        run_pieces(output, STAGE, plan, worker(output.uri, tmp_path / "runs"), check=check)
    assert len(seen) == 1
    assert Ledger(output.store, f"_ledger/{STAGE}").committed() <= set(plan)


def test_where_another_writer_was_first_its_entry_is_returned(output):
    uri = output.uri

    def work(name: str, payload: Any) -> Entry:
        Ledger(LocalStore(Path(uri)), f"_ledger/{STAGE}").commit(name, Entry(rows=5, info={"by": "rival"}))
        return Entry(rows=6)

    assert run_pieces(output, STAGE, {"p0": {}}, work) == {"p0": Entry(rows=5, info={"by": "rival"})}


def test_an_empty_plan_is_done(output):
    assert run_pieces(output, STAGE, {}, lambda name, payload: Entry()) == {}
