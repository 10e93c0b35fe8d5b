"""Progress that suits where it is read: a bar on a terminal, one plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ccp_ray.log_fields import Field, as_json, json_line

_LINE_EVERY_S = 5.0


def say(text: str, level: str = "info", **fields: Field) -> None:
    """One line to a person on standard error, which standard output is kept from: that is for results.

    level (info, warning, error) and fields are written where lines are JSON (`log_fields`).
    """
    line = json_line(text, level, fields) if as_json() else text
    sys.stderr.write(f"{line}\n")  # in one piece: other processes may write to the same screen
    sys.stderr.flush()


class Meter:
    """Counts units of work done: `with Meter("embed", total=12, unit="pieces") as meter: meter.update(1)`.

    The time left follows from what came after the first unit: before it workers start and models load, which no other
    unit waits for. Nothing is foretold until that has gone on for a few seconds.
    """

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._start = self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first units came, and what was done with them
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty() and not as_json():
            columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
            tail = (
                TextColumn(self.unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, *tail, console=Console(stderr=True), transient=False)
            self._bar.start()
            self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
        elif self.done:
            self._say(f"{self.unit} were done before")
        return self

    def update(self, advance: int = 1, note: str = "") -> None:
        self.done += advance
        now = time.monotonic()
        if self._first is None and advance:
            self._first = now, self.done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            left = self._left(now)
            told = f", {left:.0f} s left" if left is not None else ""
            self._say(f"{self.unit}{told}{', ' if note else ''}{note}")

    def _left(self, now: float) -> float | None:
        """Seconds; None where too little has come since the first unit."""
        if self._first is None:
            return None
        begun, before = self._first
        fresh = self.done - before
        if not fresh or now - begun < _LINE_EVERY_S:
            return None
        return (self.total - self.done) * (now - begun) / fresh

    def _say(self, what: str) -> None:
        say(f"{self.label}: {self.done}/{self.total} {what}", done=self.done, total=self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._say(f"{self.unit} in {time.monotonic() - self._start:.1f} s")
