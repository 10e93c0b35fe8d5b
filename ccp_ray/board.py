"""What workers tell the driver while Ray Train blocks it: metrics rows, lines for a person, what ends the run."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

from ccp_ray.log_fields import Field, log_fields, place_fields
from ccp_ray.progress import Meter, say
from ccp_ray.shortage import Shortage
from ccp_ray.telemetry import Telemetry

_EVERY_S = 1.0
_LOOKS = 5  # every so many times also at the cluster's room


class Said(NamedTuple):
    """A line for a person, and whose it is (`log_fields`)."""

    text: str
    fields: dict[str, Field]


Posted = dict[str, Any] | Said


def teller(board: Any) -> Callable[[dict[str, Any] | str], None]:
    """How a worker tells the driver: metrics rows as they are, lines with the fields in force where they are said."""

    def tell(item: dict[str, Any] | str) -> None:
        board.post.remote(Said(item, place_fields()) if isinstance(item, str) else item)

    return tell


class Board:
    """An actor between workers and driver."""

    def __init__(self) -> None:
        self._posted: list[Posted] = []
        self._failure: tuple[str, str] | None = None

    def post(self, item: Posted) -> None:
        """A metrics row, or a line for a person."""
        self._posted.append(item)

    def take(self) -> list[Posted]:
        """What was posted since the last call, in order."""
        posted, self._posted = self._posted, []
        return posted

    def fail(self, kind: str, message: str) -> None:
        """A restart cannot mend it. kind: the name of a class in `errors`; the first failure stands."""
        self._failure = self._failure or (kind, message)

    def failure(self) -> tuple[str, str] | None:
        return self._failure

    def resources(self) -> dict[str, float]:
        """What the cluster's living nodes have. Asked here: Ray ends the process that asks where the head is gone."""
        import ray

        return dict(ray.cluster_resources())


class Watch:
    """Moves what is posted to the terminal, the meter and the telemetry, while the trainer blocks the main thread.

    Now and then it looks whether the cluster still has room for the workers.
    """

    def __init__(self, board: Any, meter: Meter, telemetry: Telemetry, shortage: Shortage) -> None:
        self.board, self.meter, self.telemetry, self.shortage = board, meter, telemetry, shortage
        self.stop = threading.Event()
        self.thread = threading.Thread(target=copy_context().run, args=(self._loop,), daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _loop(self) -> None:
        import ray

        for turn in itertools.count(1):
            last = self.stop.wait(_EVERY_S)
            try:
                if turn % _LOOKS == 0 and not last:
                    self.shortage.look(ray.get(self.board.resources.remote()))
                posted = ray.get(self.board.take.remote())
            except ray.exceptions.ActorUnavailableError:
                posted = []  # the connection broke; it may come back
            except ray.exceptions.RayActorError:
                return  # it died with the driver's node: what the main thread waits for died too, and is told there
            for item in posted:
                if isinstance(item, Said):
                    with log_fields(**item.fields):
                        say(f"{self.meter.label}: {item.text}")
                else:
                    self._show(item)
            self.telemetry.flush_if_due()
            if last:
                return

    def _show(self, row: dict[str, Any]) -> None:
        self.telemetry.add(row)
        for problem in row.get("problems", []):
            say(f"monitor: {problem}", level="warning", step=row["step"])
        if "contrastive" in row:
            note = f"loss {row['contrastive']:.3f}, in-group accuracy {row['accuracy']:.2f}"
            self.meter.update(row["step"] - self.meter.done, f"{note}, {row['tokens_per_s']:,.0f} tokens/s")
