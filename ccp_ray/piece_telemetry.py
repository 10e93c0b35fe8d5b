"""How a stage of pieces goes on, as metrics rows: `{"step": 12, "stage": "tokens", "done": 12, "planned": 40, …}`.

Made by the driver, at most one a second, from the rows that tasks return. Speed is that of the last minute, or since
the first piece. A stage of less than ten seconds leaves no file: its gauges are set all the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

from ccp_ray.telemetry import Row, Telemetry

LAG, ROWS = "lag_s", "rows"  # what a task's row says besides, of a piece that it committed
_TELL_EVERY_S, _RECENT_S, _SHORT_S = 1.0, 60.0, 10.0


class PieceTelemetry:
    """Use as a context around `collect`."""

    def __init__(
        self, output: str, stage: str, planned: int, done: int, clock: Callable[[], float] = time.time
    ) -> None:
        """done: pieces of earlier runs."""
        self.stage, self.planned, self.done, self.clock = stage, planned, done, clock
        self.telemetry = Telemetry(output, clock)
        self.rows = 0
        self._lag: float | None = None
        self._started = self._told = clock()
        self._recent: deque[tuple[float, int]] = deque()  # when pieces came, and their rows

    def __enter__(self) -> PieceTelemetry:
        return self

    def through(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Look at the tasks' rows on their way."""
        for row in rows:
            if row.get(LAG) is not None:  # else another run committed the piece, or it failed
                self._add(int(row[ROWS]), float(row[LAG]))
            elif row["entry"]:
                self.done += 1
            yield row

    def _add(self, rows: int, lag: float) -> None:
        now = self.clock()
        self.done += 1
        self.rows += rows
        self._lag = lag
        self._recent.append((now, rows))
        while self._recent[0][0] < now - _RECENT_S and len(self._recent) > 2:
            self._recent.popleft()
        if now - self._told >= _TELL_EVERY_S:
            self._tell(now)
            self.telemetry.flush_if_due()

    def _tell(self, now: float) -> None:
        self._told = now
        self.telemetry.add(self._row())

    def _row(self) -> Row:
        row: dict[str, Any] = {"step": self.done, "stage": self.stage, "done": self.done, "planned": self.planned}
        row |= {"rows": self.rows, "rows_per_s": self.speed()}
        return row | ({"commit_lag_s": self._lag} if self._lag is not None else {})

    def speed(self) -> float:
        """Rows a second: those after the oldest piece that is remembered, in the time since it. 0 before there are
        two: what came before the first is start-up."""
        if len(self._recent) < 2:
            return 0.0
        (first, own), (last, _) = self._recent[0], self._recent[-1]
        return (sum(rows for _, rows in self._recent) - own) / (last - first) if last > first else 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = self.clock()
        self._tell(now)
        if now - self._started >= _SHORT_S:
            self.telemetry.flush()
