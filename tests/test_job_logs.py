"""A log that is followed over connections that break: every character once, and the end told when it is the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from test_job_records import REQUEST, job

from ccp_ray import job_logs
from ccp_ray.job_client import UnreachableError
from ccp_ray.job_logs import LogFollower
from ccp_ray.job_records import JobRecord

LOG = "Runtime env is setting up.\nRunning entrypoint for job x: python\n" + "".join(f"line {n} ü\n" for n in range(9))


@dataclass
class Connections:
    """Stands for a cluster: each connection sends the log in pieces from its start, up to where that one breaks."""

    breaks: list[tuple[int, Exception | None]]  # characters it sends, and what it ends with
    over_after: int  # connections
    made: int = 0
    unreachable: int = 0  # requests for the job's state that fail
    ray: Any = field(init=False)

    def __post_init__(self) -> None:
        self.ray = self

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        length, end = self.breaks[min(self.made, len(self.breaks) - 1)]
        self.made += 1
        step = 7 + self.made  # other pieces each time
        for start in range(0, length, step):
            yield LOG[start : min(start + step, length)]
        if end:
            raise end

    def record(self, _: str) -> JobRecord:
        if self.unreachable and self.made:
            self.unreachable -= 1
            raise UnreachableError("nobody answers")
        return job(REQUEST, "SUCCEEDED" if self.made >= self.over_after else "RUNNING", driver_exit_code=0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_logs, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(job_logs, "_LONGEST_PAUSE_S", 0.001)


@pytest.mark.parametrize(
    "breaks",
    [
        [(len(LOG), None)],
        [(0, RuntimeError("closed")), (40, OSError("reset")), (100, RuntimeError("closed")), (len(LOG), None)],
        [(50, None), (50, None), (len(LOG), None)],  # a proxy that closes politely: the job goes on
        [(len(LOG) - 1, OSError("reset")), (len(LOG), None)],
    ],
)
def test_every_character_is_written_once(breaks: list[tuple[int, Exception | None]]):
    connections = Connections(breaks, over_after=len(breaks))
    written: list[str] = []
    follower = LogFollower(connections, "x", written.append, lambda _: None)  # type: ignore[arg-type]
    assert follower.follow().ended_well
    assert "".join(written) == LOG
    assert connections.made == len(breaks)


def test_breaks_are_told_and_the_job_is_waited_for_while_nobody_answers():
    connections = Connections([(30, OSError("reset")), (len(LOG), None)], over_after=2, unreachable=3)
    notices: list[str] = []
    written: list[str] = []
    follower = LogFollower(connections, "x", written.append, notices.append)  # type: ignore[arg-type]
    assert follower.follow().ended_well
    assert "".join(written) == LOG
    assert len(notices) == 1 + 3
    assert all("the job goes on" in notice for notice in notices)


def test_in_the_end_it_gives_up():
    connections = Connections([(30, OSError("reset"))], over_after=99)
    with pytest.raises(UnreachableError, match="the connection broke"):
        LogFollower(connections, "x", len, len).follow(give_up_s=0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize("quiet", [False, True])
def test_breaks_that_lie_far_apart_are_not_one_long_silence(monkeypatch: pytest.MonkeyPatch, quiet: bool):
    """Each connection holds for longer than the patience, with new lines or (quiet) with answers to the question
    whether the job still runs, and then breaks.
    """
    monkeypatch.setattr(job_logs, "_SILENCE_S", 0.02 if quiet else 10)

    class Holding(Connections):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            self.made += 1
            yield LOG if self.made == 4 else LOG[: 20 if quiet else 20 * self.made]
            if self.made < 4:
                await asyncio.sleep(0.2)
                raise OSError("reset")

    written: list[str] = []
    holding = Holding([], over_after=4)
    follower = LogFollower(holding, "x", written.append, len)  # type: ignore[arg-type]
    assert follower.follow(give_up_s=0.1).ended_well
    assert "".join(written) == LOG
    assert holding.made == 4


def test_ray_s_own_lines_are_not_the_command_s_first():
    connections = Connections([(len(LOG), None)], over_after=1)
    follower = LogFollower(connections, "x", len, len)  # type: ignore[arg-type]
    follower.follow()
    assert follower.first_line is not None
    assert follower.first_own_line is not None
    assert follower.first_own_line > follower.first_line


def test_silence_is_asked_about(monkeypatch: pytest.MonkeyPatch):
    """A connection that died without a sign says nothing; the job is over all the same."""
    monkeypatch.setattr(job_logs, "_SILENCE_S", 0.01)

    class Silent(Connections):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            self.made += 1
            if self.made == 1:
                yield LOG[:20]
                await asyncio.sleep(3600)
            yield LOG

    written: list[str] = []
    silent = Silent([], over_after=1)
    assert LogFollower(silent, "x", written.append, len).follow().ended_well  # type: ignore[arg-type]
    assert "".join(written) == LOG
    assert silent.made == 2
