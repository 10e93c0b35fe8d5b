"""What a log says of progress: no forecast from start-up, and lines as JSON where they are asked for."""

from __future__ import annotations

import json
import threading
from contextvars import copy_context

import pytest
from command_line import ccp

from ccp_ray import progress
from ccp_ray.board import Said, Watch, teller
from ccp_ray.log_fields import VARIABLE, log_fields
from ccp_ray.progress import Meter, say
from ccp_ray.shortage import Shortage


@pytest.fixture
def now(monkeypatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: moment[0])
    return moment


def pieces(meter: Meter, now: list[float], *waits: float) -> None:
    for wait in waits:
        now[0] += wait
        meter.update(note="7 rows")


def test_the_forecast_counts_from_the_first_piece(now, capsys):
    """A job of 21 s: 12 s until its first piece, then one a second."""
    with Meter("embed", 10, "pieces") as meter:
        pieces(meter, now, 12.0, *[1.0] * 9)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 1/10 pieces, 7 rows",  # from start-up alone it would be 108 s
        "embed: 6/10 pieces, 4 s left, 7 rows",
        "embed: 10/10 pieces in 21.0 s",
    ]


def test_pieces_that_come_together_foretell_nothing(now, capsys):
    """Eight workers end their first pieces in a tenth of a second, and take five seconds for the next."""
    with Meter("embed", 80, "pieces") as meter:
        pieces(meter, now, 4.95, *[0.01] * 7)
        assert capsys.readouterr().err.splitlines() == ["embed: 6/80 pieces, 7 rows"]
        pieces(meter, now, 5.0, *[0.01] * 7)
        (line,) = capsys.readouterr().err.splitlines()
    assert line == "embed: 9/80 pieces, 45 s left, 7 rows"  # 44 is right


def test_pieces_done_before_and_a_total_that_is_reached(now, capsys):
    with Meter("embed", 4, "pieces", done=2) as meter:
        pieces(meter, now, 30.0, 30.0)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 2/4 pieces were done before",
        "embed: 3/4 pieces, 7 rows",
        "embed: 4/4 pieces, 0 s left, 7 rows",
        "embed: 4/4 pieces in 60.0 s",
    ]


def test_lines_as_json_say_what_they_are_about(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "json")
    with log_fields(run="s3://b/run", stage="prepare"):
        with log_fields(stage="tokens", piece="00001"):
            say("committed, 5 rows", rows=5)
        say("it broke:\n“half”", level="error")
    say("outside")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    about = {"run": "s3://b/run", "stage": "tokens", "piece": "00001", "rows": 5, "message": "committed, 5 rows"}
    assert first.items() >= about.items()
    assert (first["level"], second["level"], second["stage"], second["message"]) == (
        *("info", "error", "prepare", "it broke:\n“half”"),
    )
    assert first["time"].endswith("Z")
    assert {"node", "pid"} <= first.keys()
    assert not {"run", "stage", "piece"} & third.keys()


def test_the_same_lines_without_json_are_the_words_alone(monkeypatch, capsys):
    monkeypatch.delenv(VARIABLE, raising=False)
    with log_fields(run="x", piece="y"):
        say("words", level="warning", rows=5)
    assert capsys.readouterr().err == "words\n"


def test_progress_as_json_has_numbers(monkeypatch, now, capsys):
    monkeypatch.setenv(VARIABLE, "json")
    with Meter("tokens", 2, "pieces") as meter:
        pieces(meter, now, 6.0, 6.0)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["done"], line["total"]) for line in lines] == [(1, 2), (2, 2), (2, 2)]


class _Board:
    """A board of this process: `post.remote` and `take.remote` as Ray's handles have them."""

    def __init__(self) -> None:
        self.items: list[object] = []
        self.post = type("Handle", (), {"remote": self.items.append})
        self.take = type("Handle", (), {"remote": lambda: [self.items.pop(0) for _ in list(self.items)]})


def test_a_workers_line_keeps_its_rank_and_node_when_the_driver_writes_it(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "json")
    board = _Board()
    with log_fields(run="worker's", stage="pretrain", rank=3):
        teller(board)("going on from step 5")
        teller(board)({"step": 5})
    (said, row) = board.items
    assert isinstance(said, Said)
    assert row == {"step": 5}
    board.items[:] = [said._replace(fields={**said.fields, "node": "elsewhere", "pid": 1})]
    monkeypatch.setattr("ray.get", lambda value: value)
    telemetry = type("Telemetry", (), {"flush_if_due": lambda self: None})()
    watch = Watch(board, Meter("pretrain", 9, "steps"), telemetry, Shortage("pretrain", {}))
    with log_fields(run="driver's", stage="pipeline"), watch:
        pass
    line = json.loads(capsys.readouterr().err)
    about = {"rank": 3, "node": "elsewhere", "pid": 1, "stage": "pretrain", "message": "pretrain: going on from step 5"}
    assert line.items() >= about.items()


def test_threads_take_the_fields_along_where_they_are_given_them(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "json")
    with log_fields(run="x"):
        for target in (say, copy_context().run):
            arguments = ("words",) if target is say else (say, "words")
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join()
    without, with_them = map(json.loads, capsys.readouterr().err.splitlines())
    assert ("run" in without, with_them["run"]) == (False, "x")


def test_the_flag_of_the_command_and_its_verb_and_output(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "text")  # put back afterwards: the flag sets it for this process and its children
    plain = ccp("verify", tmp_path)
    assert plain.err == f"ccp-ray: error: {tmp_path}: holds no artifact (expected a finished artifact)\n"
    result = ccp("--json-logs", "prepare", "nowhere", "--output", tmp_path / "x")
    line = json.loads(result.err)
    assert (line["level"], line["stage"], line["run"]) == ("error", "prepare", str(tmp_path / "x"))
    assert line["message"].startswith("ccp-ray: error: nowhere: no such file")
    assert (result.code, result.out) == (plain.code, "") == (2, "")
