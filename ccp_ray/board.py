"""What workers tell the driver while Ray Train blocks it: metrics rows, notes for a person, what ends the run."""

from __future__ import annotations

import threading
from typing import Any

from ccp_ray.progress import Meter, say


class Board:
    """An actor between workers and driver."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._failure: tuple[str, str] | None = None

    def post(self, row: dict[str, Any]) -> None:
        """A metrics row, or {"note": text}."""
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        rows, self._rows = self._rows, []
        return rows

    def fail(self, kind: str, message: str) -> None:
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        return self._failure


class Watch:
    """Moves rows from the board to the meter in a thread: `with Meter(…) as meter, Watch(board, meter): …`."""

    def __init__(self, board: Any, meter: Meter) -> None:
        self.board, self.meter = board, meter
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _loop(self) -> None:
        import ray

        while True:
            last = self.stop.wait(1.0)
            for row in ray.get(self.board.take.remote()):
                self._show(row)
            if last:
                return

    def _show(self, row: dict[str, Any]) -> None:
        if "note" in row:
            say(f"pretrain: {row['note']}")
        for problem in row.get("problems", []):
            say(f"monitor: {problem}")
        if "contrastive" in row:
            note = f"loss {row['contrastive']:.3f}, in-group accuracy {row['accuracy']:.2f}"
            self.meter.update(row["step"] - self.meter.done, f"{note}, {row['tokens_per_s']:,.0f} tokens/s")
