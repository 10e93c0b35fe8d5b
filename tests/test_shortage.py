"""A lack of machines is told once, when it lasts, and so is its end."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ccp_ray.board import Watch
from ccp_ray.progress import Meter
from ccp_ray.shortage import Shortage

LACK = "pretrain: waiting for 2 CPUs, the cluster has 1; start a node, or set resources.workers\n"


def test_a_lack_that_lasts_is_told_once_and_so_is_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    shortage = Shortage("pretrain", {"CPU": 2, "GPU": 0})
    told = []
    for cpus in (2, 1, 2, 1, 1, 1, 0, 3, 3):
        shortage.look({"CPU": cpus})
        told.append(capsys.readouterr().err)
    enough = "pretrain: the cluster has enough again\n"
    assert told == ["", "", "", "", LACK, "", LACK.replace("has 1", "has 0"), enough, ""]


def test_what_is_missing_from_the_start_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    Shortage("pretrain", {"CPU": 4, "GPU": 4}).look({"CPU": 8}, at_once=True)
    expected = "pretrain: waiting for 4 GPUs, the cluster has 0; start a node, or set resources.workers\n"
    assert capsys.readouterr().err == expected


def test_the_driver_looks_while_its_workers_are_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr("ccp_ray.board._EVERY_S", 0.001)
    board = SimpleNamespace(
        take=SimpleNamespace(remote=list), resources=SimpleNamespace(remote=lambda: {"node:10.0.0.1": 1.0, "CPU": 1.0})
    )
    telemetry: Any = SimpleNamespace(flush_if_due=lambda: None)
    with Watch(board, Meter("pretrain", 9, "steps"), telemetry, Shortage("pretrain", {"CPU": 2})):
        for _ in range(500):
            if LACK in (said := capsys.readouterr().err):
                break
            time.sleep(0.01)
    assert said == LACK
