"""Progress that suits where it is read: a bar on a terminal, one plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 5.0


def say(text: str) -> None:
    """One line to a person; standard output is kept for results."""
    print(text, file=sys.stderr, flush=True)


class Meter:
    """Counts units of work done: `with Meter("embed", total=12, unit="pieces") as meter: meter.update(1)`."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._start = self._last_line = time.monotonic()
        self._already = done
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if sys.stderr.isatty():
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
            say(f"{self.label}: {self.done}/{self.total} {self.unit} were done before")
        return self

    def update(self, advance: int = 1, note: str = "") -> None:
        self.done += advance
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            fresh = self.done - self._already
            left = (self.total - self.done) * (now - self._start) / fresh if fresh else float("nan")
            tail = f", {note}" if note else ""
            say(f"{self.label}: {self.done}/{self.total} {self.unit}, {left:.0f} s left{tail}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            say(f"{self.label}: {self.done}/{self.total} {self.unit} in {time.monotonic() - self._start:.1f} s")
