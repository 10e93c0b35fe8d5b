"""Following a job's log over a connection that may break.

Ray sends the log from its beginning on each connection; what was written before is left out by counting, for a log
only grows. A connection that says nothing for a while may be dead without a sign (a laptop that slept): then the job is
asked for over HTTP, and after longer silence the connection is made anew. How the job ended is asked last, when the log
is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from ccp_ray.errors import CcpError
from ccp_ray.job_client import JobClient, UnreachableError, refusal
from ccp_ray.job_records import JobRecord

_SILENCE_S, _RENEW_S = 15.0, 300.0
_GIVE_UP_S = 900.0
_BEGINS = "Running entrypoint for job"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class LogFollower:
    """Writes a job's log as it comes; `notice` is told of breaks."""

    def __init__(
        self, client: JobClient, job: str, write: Callable[[str], object], notice: Callable[[str], object]
    ) -> None:
        self.client, self.job, self.write, self.notice = client, job, write, notice
        self.first_line: float | None = None  # time.monotonic()
        self.first_own_line: float | None = None  # of the command; what comes before is Ray's
        self._written = 0  # characters
        self._alive = False  # whether this connection brought news, or the cluster answered while it was silent
        self._opening = ""  # of the log, until Ray says that it runs the command

    def follow(self, give_up_s: float = _GIVE_UP_S) -> JobRecord:
        """Until the job is over. Raises UsageError for an unknown job, UnreachableError after that long a silence."""
        record = self.client.record(self.job)
        pause, lost_since = _FIRST_PAUSE_S, None
        while True:
            self._alive = False
            try:
                whole = asyncio.run(self._connection())
                record, lost_since = self.client.record(self.job), None
                if record.over and whole:
                    return record
                pause = _FIRST_PAUSE_S if self._alive else pause
            except UnreachableError as error:
                if self._alive:  # it broke after it had held: what was lost before is over
                    pause, lost_since = _FIRST_PAUSE_S, None
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > give_up_s:
                    raise
                self.notice(f"{error}; trying again in {pause:g} s, the job goes on")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _connection(self) -> bool:
        """One connection, to its end. Returns whether the log came to its end with it."""
        import aiohttp

        at, heard = 0, time.monotonic()
        stream = self.client.ray.tail_job_logs(self.job)
        waiting: asyncio.Task[str] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next(stream))
                done, _ = await asyncio.wait([waiting], timeout=_SILENCE_S)
                if done:
                    text, waiting, heard = waiting.result(), None, time.monotonic()
                    self._fresh(text[max(0, self._written - at) :])
                    at += len(text)
                elif self.client.record(self.job).over or time.monotonic() - heard > _RENEW_S:
                    return False
                else:
                    self._alive = True
        except _LogEndedError:
            return True
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                raise CcpError(refusal(self.client.url, error.status)) from None
            raise UnreachableError(f"{self.job}: its log cannot be had ({error.status})") from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise UnreachableError(f"{self.job}: the connection broke ({type(error).__name__})") from None
        finally:
            if waiting is not None and not waiting.done():
                waiting.cancel()

    def _fresh(self, text: str) -> None:
        if text:
            self.first_line = self.first_line or time.monotonic()
            self._written, self._alive = self._written + len(text), True
            self.write(text)
            self._time(text)

    def _time(self, text: str) -> None:
        if self.first_own_line is None:
            self._opening += text
            _, begun, rest = self._opening.partition(_BEGINS)
            if begun and rest.partition("\n")[2]:
                self.first_own_line, self._opening = time.monotonic(), ""


async def _next(stream: AsyncIterator[Any]) -> str:
    try:
        return str(await stream.__anext__())
    except StopAsyncIteration:
        raise _LogEndedError from None


class _LogEndedError(Exception):
    """The stream ended as it should (a StopAsyncIteration cannot leave a task)."""
