"""What a log line is about: run, stage, rank, piece. With `CCP_RAY_LOGS=json` each line is one JSON object.

    {"time": "2026-01-31T12:00:00.123Z", "level": "info", "run": "s3://bucket/run/embeddings", "stage": "embed",
     "piece": "00017-1f2e", "node": "worker-3", "pid": 4711, "message": "committed, 65,536 rows"}

`log_fields` holds for the block, in the thread that runs it (a context variable); a thread that is to have the same is
started with `contextvars.copy_context().run`. Without the variable lines are the words alone, as people read them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType

VARIABLE = "CCP_RAY_LOGS"
Field = str | int | float
_fields: ContextVar[Mapping[str, Field]] = ContextVar("log_fields", default=MappingProxyType({}))


@contextlib.contextmanager
def log_fields(**fields: Field) -> Iterator[None]:
    """Add fields to every line within the block; inner ones win."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def place_fields() -> dict[str, Field]:
    """The fields in force, and where this process is: for a line that another process will write."""
    return {"node": platform.node(), "pid": os.getpid(), **_fields.get()}


def as_json() -> bool:
    """Whether lines are JSON."""
    return os.environ.get(VARIABLE) == "json"


def json_line(message: str, level: str, more: Mapping[str, Field]) -> str:
    """A line as one JSON object, the message last."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = {"time": now, "level": level, **place_fields(), **more, "message": message}
    return json.dumps(record, ensure_ascii=False)
