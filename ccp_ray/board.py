"""What workers tell the driver while Ray Train blocks it: metrics rows, lines for a person, what ends the run."""

from __future__ import annotations

import threading
from typing import Any

from ccp_ray.progress import Meter, say
from ccp_ray.telemetry import Telemetry


class Board:
    """An actor between workers and driver."""

    def __init__(self) -> None:
        self._posted: list[dict[str, Any] | str] = []
        self._failure: tuple[str, str] | None = None

    def post(self, item: dict[str, Any] | str) -> None:
        """A metrics row, or a line for a person."""
        self._posted.append(item)

    def take(self) -> list[dict[str, Any] | str]:
        """What was posted since the last call, in order."""
        posted, self._posted = self._posted, []
        return posted

    def fail(self, kind: str, message: str) -> None:
        """A restart cannot mend it. kind: the name of a class in `errors`; the first failure stands."""
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        return self._failure


class Watch:
    """Moves what is posted to the terminal, the meter and the telemetry, while the trainer blocks the main thread."""

    def __init__(self, board: Any, meter: Meter, telemetry: Telemetry) -> None:
        self.board, self.meter, self.telemetry = board, meter, telemetry
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
            for item in ray.get(self.board.take.remote()):
                if isinstance(item, str):
                    say(f"{self.meter.label}: {item}")
                else:
                    self._show(item)
            self.telemetry.flush_if_due()
            if last:
                return

    def _show(self, row: dict[str, Any]) -> None:
        self.telemetry.add(row)
        for problem in row.get("problems", []):
            say(f"monitor: {problem}")
        if "contrastive" in row:
            note = f"loss {row['contrastive']:.3f}, in-group accuracy {row['accuracy']:.2f}"
            self.meter.update(row["step"] - self.meter.done, f"{note}, {row['tokens_per_s']:,.0f} tokens/s")
