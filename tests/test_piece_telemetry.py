"""Rows of pieces as the driver makes them, with a clock that the test sets. Gauges are another test's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ccp_ray.ledger import Entry
from ccp_ray.piece_telemetry import LAG, ROWS, PieceTelemetry
from ccp_ray.telemetry import Telemetry


class Clock:
    now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told(monkeypatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    add = Telemetry.add
    monkeypatch.setattr(Telemetry, "_gauge", lambda *_: None)
    monkeypatch.setattr(Telemetry, "add", lambda self, row: rows.append(dict(row)) or add(self, row))
    return rows


def task_rows(clock: Clock, *waits: float, rows: int = 10) -> Iterator[dict[str, Any]]:
    for number, wait in enumerate(waits):
        clock.now += wait
        entry = Entry(rows=rows).model_dump_json()
        yield {"name": str(number), "entry": entry, "error": "", LAG: 0.25, ROWS: rows}


def files(folder) -> list[str]:
    return sorted(path.suffix for path in folder.rglob("*") if path.is_file())


def test_rows_speed_and_lag(tmp_path, told):
    clock = Clock()
    with PieceTelemetry(str(tmp_path), "tokens", planned=9, done=2, clock=clock) as telemetry:
        passed = list(telemetry.through(task_rows(clock, 30.0, 2.0, 2.0, 0.5)))
    assert [row["name"] for row in passed] == ["0", "1", "2", "3"]
    assert [(row["step"], row["done"], row["planned"], row["rows"]) for row in told] == [
        *((3, 3, 9, 10), (4, 4, 9, 20), (5, 5, 9, 30)),
        (6, 6, 9, 40),  # at the end; a piece half a second after another made no row of its own
    ]
    assert [row["rows_per_s"] for row in told] == pytest.approx([0, 5, 5, 30 / 4.5])  # start-up is no work
    assert {(row["stage"], row["commit_lag_s"]) for row in told} == {("tokens", 0.25)}
    lines = [json.loads(line) for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(line["rows"] for line in lines) == [10, 20, 30, 40]


def test_the_speed_is_that_of_the_last_minute(tmp_path, told):
    clock = Clock()
    telemetry = PieceTelemetry(str(tmp_path), "tokens", planned=500, done=0, clock=clock)
    list(telemetry.through(task_rows(clock, *[1.0] * 100)))
    assert telemetry.speed() == pytest.approx(10.0)
    list(telemetry.through(task_rows(clock, *[5.0] * 30)))
    assert telemetry.speed() == pytest.approx(2.0)
    list(telemetry.through(task_rows(clock, 1000.0)))  # pieces longer than a minute: from one to the next
    assert telemetry.speed() == pytest.approx(10 / 1000)


def test_pieces_of_others_and_failures(tmp_path, told):
    rows = [{"name": "a", "entry": "{}", "error": ""}, {"name": "b", "entry": "", "error": "DataError:bad"}]
    with PieceTelemetry(str(tmp_path), "tokens", planned=2, done=0, clock=Clock()) as telemetry:
        assert list(telemetry.through(rows)) == rows
    assert [(row["done"], row["rows"]) for row in told] == [(1, 0)]
    assert "commit_lag_s" not in told[0]


def test_a_short_stage_leaves_no_file_and_a_long_one_does(tmp_path, told):
    for seconds, expected in ((9.0, []), (11.0, [".00000", ".jsonl"])):
        clock = Clock()
        with PieceTelemetry(str(tmp_path), "tokens", planned=1, done=0, clock=clock) as telemetry:
            list(telemetry.through(task_rows(clock, 1.0)))
            clock.now += seconds - 1
        assert files(tmp_path) == expected
