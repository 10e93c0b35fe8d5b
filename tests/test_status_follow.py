"""`status --follow` of a pipeline that goes on between the looks: what is shown, and that it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import ccp
from rich.console import Console

from ccp_ray.artifact import Artifact, Output, Request, open_output
from ccp_ray.ledger import Entry, Ledger
from ccp_ray.pieces import outstanding
from ccp_ray.storage import open_store
from jobs import status_follow
from jobs.pipeline_stages import write_stages
from jobs.status import look
from jobs.status_follow import Line, follow, lines, shown_live, shown_plain

ROW = {"steps": 200, "contrastive": 3.25, "accuracy": 0.5, "tokens_per_s": 1234.5, "step_seconds": {"other": 2.0}}
PIECES = {f"p{number}": 100 for number in range(4)}


class Pipeline:
    """A folder with a corpus and an encoder, and what happens to it between looks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_stages(str(folder), ["corpus", "encoder"])
        self.happens: list[Callable[[], Any]] = [self.corpus_begins, self.a_piece, self.corpus_ends, self.trains]
        self.happens += [self.encoder_ends]
        self.waits: list[float] = []

    def output(self, name: str, kind: str) -> Output:
        opened = open_output(str(self.folder / name), Request(kind=kind, config={}))
        assert not isinstance(opened, Artifact)
        return opened

    def corpus_begins(self) -> None:
        outstanding(self.output("corpus", "corpus"), "tokens", PIECES)

    def a_piece(self) -> None:
        Ledger(self.output("corpus", "corpus").store, "_ledger/tokens").commit("p0", Entry(rows=100))

    def corpus_ends(self) -> None:
        self.output("corpus", "corpus").finish([], {"rows": 400})

    def trains(self) -> None:
        store, row = self.output("encoder", "encoder").store, {"time": 4e9, "step": 50} | ROW
        store.write("_telemetry/a/rows-00000.jsonl", json.dumps(row).encode() + b"\n")

    def encoder_ends(self) -> None:
        self.output("encoder", "encoder").finish([], {"trained_steps": 200})

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.happens.pop(0)()

    def follow(self, show: Any, known: dict | None = None) -> None:
        kept: dict[str, Any] = {} if known is None else known
        follow(lambda: look(str(self.folder), kept), show, 2.0, self.sleep)


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    return Pipeline(tmp_path / "run")


def test_states_and_figures_from_nothing_to_the_end(pipeline):
    seen: list[list[Line]] = []
    pipeline.follow(lambda looks: seen.extend(lines(rows) for rows in looks))
    states = [tuple(line.state for line in found) for found in seen]
    assert states == [
        ("waiting", "waiting"), ("running", "waiting"), ("running", "waiting"),
        ("finished", "waiting"), ("finished", "running"), ("finished", "finished"),
    ]  # fmt: skip
    assert [line.stage for line in seen[0]] == ["corpus", "encoder"]
    assert (seen[1][0].done, seen[1][0].last) == ("tokens: 0 of 4 pieces, 0.0 %", "")
    assert seen[2][0].done == "tokens: 1 of 4 pieces, 25.0 %"
    assert seen[2][0].last.endswith(" seconds ago")
    assert seen[3][0] == Line("corpus", "finished", "400 rows")
    assert seen[4][1].done == "step 50 of 200, loss 3.250"
    assert (seen[4][1].speed, seen[4][1].left) == ("1,234 tokens/s", "5.0 minutes")
    assert all(wait >= 2.0 for wait in pipeline.waits)
    assert len(pipeline.waits) == 5


def test_lines_where_there_is_no_terminal(pipeline, capsys, monkeypatch):
    assert shown_live() is None  # so these are taken
    monkeypatch.setattr(status_follow.time, "strftime", lambda _: "12:00:00")
    pipeline.follow(shown_plain)
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == [
        "12:00:00 corpus: waiting",
        "12:00:00 encoder: waiting",
        "12:00:00 corpus: running, tokens: 0 of 4 pieces, 0.0 %",
    ]
    assert out[-3:] == [
        "12:00:00 corpus: finished, 400 rows",
        "12:00:00 encoder: running, step 50 of 200, loss 3.250, 1,234 tokens/s, 5.0 minutes left",
        "12:00:00 encoder: finished",
    ]
    assert len(out) == 7  # what waits or is finished is said once


def test_a_table_that_renews_itself_on_a_terminal(pipeline):
    screen = io.StringIO()
    show = shown_live(Console(file=screen, force_terminal=True, width=120, color_system=None))
    assert show is not None
    pipeline.follow(show)
    drawn = screen.getvalue()
    assert "\x1b[1A" in drawn  # it goes back up and draws over what was there
    assert "step 50 of 200, loss 3.250" in drawn
    last = drawn[drawn.rindex("stage") :].splitlines()
    assert [line.split()[:2] for line in last[1:3]] == [["corpus", "finished"], ["encoder", "finished"]]


def test_what_is_finished_is_not_read_again(pipeline):
    known: dict[str, Any] = {}
    pipeline.follow(lambda looks: [None for _ in looks], known)
    assert sorted(known) == [str(pipeline.folder / name) for name in ("corpus", "encoder")]
    marked = {uri: {"uri": uri, "state": "finished", "summary": {"rows": 7}} for uri in known}
    assert look(str(pipeline.folder), marked) == [*marked.values()]


def test_a_slow_look_is_followed_by_a_long_pause(monkeypatch):
    clock = iter([0.0, 3.0, 100.0, 100.1])
    monkeypatch.setattr(status_follow.time, "monotonic", lambda: next(clock))
    waits: list[float] = []
    found = iter([[{"state": "waiting"}], [{"state": "finished"}]])
    follow(lambda: next(found), lambda looks: [None for _ in looks], 5.0, waits.append)
    assert waits == [27.0]


def test_the_command_ends_with_what_is_finished(tmp_path):
    output = open_output(str(tmp_path / "x"), Request(kind="corpus", config={}))
    assert isinstance(output, Output)
    output.finish([], {"rows": 5})
    done = ccp("status", tmp_path, "--follow", "--every", "0.1")
    assert (done.code, done.out[9:]) == (0, "x: finished, 5 rows\n")
    told = ccp("status", tmp_path, "--follow", "--json")
    assert [row["state"] for row in told.json["status"]] == ["finished"]
    assert ccp("status", tmp_path / "nowhere", "--follow").code == 2
    assert open_store(str(tmp_path / "x")).size("artifact.json")
