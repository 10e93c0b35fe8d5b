"""Metrics rows as they are made: to TensorBoard, to JSON lines, and to Ray's metrics.

The driver hands over each row that rank 0 of a training reports, or that `piece_telemetry` makes. Gauges are set at
once, and Ray's agent on the driver's node serves them to Prometheus (`metric_catalog` lists them). Files go to the
output's store below `_telemetry/ATTEMPT/`, ATTEMPT being the driver's start:

    rows-00000.jsonl                      {"time": seconds since 1970, …the row}
    events.out.tfevents.START.00000       the same as scalars; `tensorboard --logdir OUTPUT/_telemetry`

Each flush writes a new pair of files and never touches an old one: S3 cannot append, and TensorBoard holds the files
of a local folder open, so it would never see one that was replaced. The time between flushes is a hundredth of that
since the start, at least 10 s and at most 10 min: a week makes 1,420 pairs. A killed driver loses the rows since its
last flush here, but not in the artifact, whose `metrics.jsonl` comes from the checkpoints. Nothing here is part of
the artifact.

A resumed run is an attempt of its own and repeats the steps since the last checkpoint.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ccp_ray.errors import DamagedError, StoreError
from ccp_ray.metric_catalog import METRICS
from ccp_ray.progress import say
from ccp_ray.storage import Store, open_store

FOLDER = "_telemetry"
_LEAST_S, _MOST_S, _SHARE = 10.0, 600.0, 0.01

Row = Mapping[str, Any]
Clock = Callable[[], float]


class Point(NamedTuple):
    """One number of a row. kind: the first part of its name. label: which of several series it is of, if any:
    a language, a part of a step, a stage (`Metric.label` says of what)."""

    kind: str
    name: str
    label: str | None
    value: float


# A training row's mappings: kind and name of their numbers.
_BY_LABEL = {"loss_by_language": ("language", "loss"), "step_seconds": ("step", "seconds")}


def points(row: Row) -> Iterator[Point]:
    """The numbers of a training row, a probe row or a row of pieces."""
    if "probe" in row:
        yield from _probe_points(row)
    elif "stage" in row:
        numbers = ((name, value) for name, value in row.items() if name not in ("step", "stage"))
        yield from (Point("pieces", name, row["stage"], float(value)) for name, value in numbers)
    else:
        for name, value in row.items():
            if name in _BY_LABEL:
                yield from (Point(*_BY_LABEL[name], label, float(each)) for label, each in value.items())
            else:
                yield Point("train", name, None, float(value))


def _probe_points(row: Row) -> Iterator[Point]:
    """It also says how many problems the monitor named."""
    for language, values in row["probe"].items():
        yield from (Point("probe", name, language, float(value)) for name, value in values.items())
    yield from (Point("dev", name, None, float(value)) for name, value in row.get("dev", {}).items())
    yield Point("monitor", "problems", None, float(len(row.get("problems", []))))


def row_files(store: Store) -> Iterator[list[str]]:
    """Keys of the files of rows of each attempt of the output at this root, the newest attempt and file first."""
    for attempt in sorted(store.folders(FOLDER), reverse=True):
        yield sorted((info.key for info in store.list(f"{FOLDER}/{attempt}/rows-")), reverse=True)


def read_rows(store: Store, key: str) -> list[dict[str, Any]]:
    """The rows of a file, each with its "time". Raises DamagedError for one that is not as it was written."""
    try:
        rows = [json.loads(line) for line in store.read(key).splitlines()]
        return [row | {"time": float(row["time"])} for row in rows]
    except (ValueError, TypeError, KeyError):
        raise damaged_rows(store, key) from None


def damaged_rows(store: Store, key: str) -> DamagedError:
    """What to say of a file of rows that is not as it was written."""
    return DamagedError(f"{store.uri(key)}: damaged metrics; delete this object")


class Telemetry:
    """Takes rows in one thread; use as a context, so that the last ones are written."""

    def __init__(self, output: str, clock: Clock = time.time) -> None:
        self.store, self.clock = open_store(output), clock
        self.run, self.started = self.store.root, clock()
        self.attempt = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self.started))}-{os.urandom(2).hex()}"
        self._waiting: list[tuple[float, Row]] = []
        self._flushed, self._number = self.started, 0
        self._gauges: dict[str, Any] = {}
        self._unlisted: set[str] = set()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def add(self, row: Row) -> None:
        """Set the gauges, and keep the row for the next flush."""
        for point in points(row):
            self._gauge(point)
        self._waiting.append((self.clock(), row))

    def flush_if_due(self) -> None:
        now = self.clock()
        if now - self._flushed >= min(_MOST_S, max(_LEAST_S, _SHARE * (now - self.started))):
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait. A store that fails is told of, and asked again at the next flush."""
        self._flushed = self.clock()
        if not self._waiting:
            return
        prefix = f"{FOLDER}/{self.attempt}"
        lines = "".join(json.dumps({"time": when, **row}) + "\n" for when, row in self._waiting)
        events = f"events.out.tfevents.{int(self.started)}.{self._number:05d}"
        try:
            self.store.write(f"{prefix}/rows-{self._number:05d}.jsonl", lines.encode())
            self.store.write(f"{prefix}/{events}", _events(self._waiting))
        except (StoreError, OSError) as error:  # OSError: of the temporary folder
            # Training goes on: its own writes to the same store decide whether it can.
            say(f"telemetry: {len(self._waiting)} rows wait, {error}", level="warning")
            return
        self._waiting.clear()
        self._number += 1

    def _gauge(self, point: Point) -> None:
        from ray.util.metrics import Gauge

        name = f"ccp_ray_{point.kind}_{point.name}"
        metric = METRICS.get(name)
        if metric is None:
            if name not in self._unlisted:
                self._unlisted.add(name)
                say(f"telemetry: {name} is not in the catalog of metrics; it is written to files alone")
            return
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, metric.meaning, metric.tags)
        tags = {metric.label: point.label} if metric.label and point.label else {}
        self._gauges[name].set(point.value, {"run": self.run} | tags)


def _events(rows: list[tuple[float, Row]]) -> bytes:
    """A TensorBoard event file: scalars by row, and what the monitor said as text.

    `EventsWriter` writes at once; the package's `SummaryWriter` would start a thread for every file.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar, text

    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        writer = EventsWriter(f"{scratch}/events")
        for when, row in rows:
            step = int(row["step"])
            for kind, name, label, value in points(row):
                tag = f"{name}/{label}" if label else f"{kind}/{name}"  # TensorBoard groups by the first part
                writer.write_event(Event(wall_time=when, step=step, summary=scalar(tag, value)))
            for problem in row.get("problems", []):
                writer.write_event(Event(wall_time=when, step=step, summary=text("problems", problem)))
        writer.close()
        (path,) = Path(scratch).iterdir()
        return path.read_bytes()
