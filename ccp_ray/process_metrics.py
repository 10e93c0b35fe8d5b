"""Counters and histograms of whatever process is at work: driver, task, actor or training worker.

They reach Ray's metrics of the process's node where Ray runs in it. Counts made before Ray started here (a driver looks
at its store first) wait until it has. `total` is what this process counted, for rows that it reports itself.
Ray keeps a metric as long as its process; each of its sessions in one process gets metrics of its own.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ccp_ray.metric_catalog import LAG_BOUNDARIES, METRICS

_Key = tuple[str, tuple[tuple[str, str], ...]]
_lock = threading.Lock()
_made: dict[tuple[str, str], Any] = {}
_waiting: Counter[_Key] = Counter()
_totals: Counter[str] = Counter()


def count(name: str, tags: Mapping[str, str]) -> None:
    """Add 1 to a counter of the catalog."""
    with _lock:
        _totals[name] += 1
        _waiting[name, tuple(tags.items())] += 1
        session = _session()
        if session is None:
            return
        for (waiting, pairs), value in _waiting.items():
            _metric(session, waiting).inc(value, dict(pairs))
        _waiting.clear()


def total(name: str) -> int:
    """What this process counted under a name since it started, whatever the tags."""
    return _totals[name]


def observe_lag(run: str, stage: str, seconds: float) -> None:
    """Seconds from something's being ready until its ledger entry; without Ray nobody could read it."""
    with _lock:
        session = _session()
        if session is not None:
            _metric(session, "ccp_ray_commit_lag_seconds").observe(max(0.0, seconds), {"run": run, "stage": stage})


def _session() -> str | None:
    """Which of its sessions Ray is in; None where it is in none. Never imports Ray: only jobs that use it have it."""
    ray = sys.modules.get("ray")
    if ray is None or not hasattr(ray, "is_initialized") or not ray.is_initialized():
        return None
    return str(ray.get_runtime_context().get_node_id())  # another local Ray has another node


def _metric(session: str, name: str) -> Any:
    from ray.util import metrics

    if (session, name) not in _made:
        known = METRICS[name]
        if known.kind == "counter":
            made = metrics.Counter(name, known.meaning, known.tags)
        else:
            made = metrics.Histogram(name, known.meaning, LAG_BOUNDARIES, known.tags)
        _made[session, name] = made
    return _made[session, name]
