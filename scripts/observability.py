"""Writes what follows from the catalog of metrics: the Grafana dashboard, and the tables of docs/observability.md.

    python scripts/observability.py          # after a change of ccp_ray/metric_catalog.py or of the panels below

A test fails where the files are not what this writes, where a metric has no panel, and where a panel asks for a metric
that nobody exports.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ccp_ray.metric_catalog import METRICS, Metric  # noqa: E402 - from this checkout, wherever it is run

DASHBOARD = ROOT / "cluster/metrics/grafana_dashboard.json"
DOCS = ROOT / "docs/observability.md"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_UNITS = {"s": "s", "fraction": "percentunit"}
_WIDTH, _HEIGHT = 8, 8  # of a panel; a row has 24


class Panel(NamedTuple):
    """queries: (expression, legend)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "none"
    stacked: bool = False


def _gauges(title: str, *names: str, stacked: bool = False) -> Panel:
    """Gauges of the catalog, by run and by what tells their series apart."""
    metrics = [METRICS[f"ccp_ray_{name}"] for name in names]
    return Panel(title, tuple(_query(each) for each in metrics), _UNITS.get(metrics[0].unit, "none"), stacked)


def _query(metric: Metric) -> tuple[str, str]:
    by = ", ".join(metric.tags)
    what = metric.name.removeprefix("ccp_ray_") + (f" {{{{{metric.label}}}}}" if metric.label else "")
    return f'max by ({by}) ({metric.exported}{{run=~"$run"}})', f"{what} · {{{{run}}}}"


def _lag(title: str, share: float) -> Panel:
    metric = METRICS["ccp_ray_commit_lag_seconds"].exported
    rate = f'sum by (le, stage) (rate({metric}_bucket{{run=~"$run"}}[5m]))'
    return Panel(title, ((f"histogram_quantile({share}, {rate})", "{{stage}}"),), "s")


def _requests(title: str, name: str) -> Panel:
    rate = f"sum by (operation, code) (rate({METRICS[name].exported}[5m]))"
    return Panel(title, ((rate, "{{operation}} {{code}}"),), "reqps")


ROWS: dict[str, list[Panel]] = {
    "Training": [
        _gauges("Steps", "train_step", "train_steps"),
        _gauges("Loss", "train_loss", "train_contrastive", "train_chance", "train_mlm"),
        _gauges("Loss by language", "language_loss"),
        _gauges("In-group accuracy", "train_accuracy", "train_masked_share"),
        _gauges("Tokens a second", "train_tokens_per_s"),
        _gauges("Time of a step by part", "step_seconds", stacked=True),
        _gauges("Padding", "train_padding_efficiency"),
        _gauges("Tokens of a group", "train_tokens"),
        _gauges("Learning rate", "train_lr"),
        _gauges("Skipped steps", "train_skipped"),
        _gauges("From a checkpoint's copy to its entry", "train_commit_lag_s"),
        _gauges("Store, as worker 0 sees it", "train_store_errors", "train_store_retries"),
    ],
    "Language banks": [
        _gauges("Fill", "train_bank_fill", "train_bank_groups", "train_bank_masked_share"),
        _gauges("Age of keys", "train_bank_age"),
        _gauges("Keys in use", "train_bank_used"),
        _gauges("Staleness gap", "train_staleness_gap"),
    ],
    "Embedding space": [
        _gauges("Spread", "probe_std"),
        _gauges("Effective rank", "probe_effective_rank"),
        _gauges("Alignment", "probe_alignment"),
        _gauges("Uniformity", "probe_uniformity"),
        _gauges("Leakage", "probe_leakage"),
        _gauges("Epochs by language", "probe_epochs"),
        _gauges("Problems named", "monitor_problems"),
        _gauges("Dev loss", "probe_loss", "dev_loss"),
        _gauges("Dev MRR", "probe_mrr", "dev_mrr"),
    ],
    "Pieces": [
        _gauges("Pieces done", "pieces_done", "pieces_planned"),
        _gauges("Rows a second", "pieces_rows_per_s"),
        _gauges("Rows of this run", "pieces_rows"),
        _gauges("Commit lag, last piece", "pieces_commit_lag_s"),
        _lag("Commit lag, median", 0.5),
        _lag("Commit lag, 99 %", 0.99),
    ],
    "Store": [
        _requests("Failed requests", "ccp_ray_store_errors"),
        _requests("Repeated requests", "ccp_ray_store_retries"),
    ],
    "Cluster (Ray's own)": [
        Panel("CPU", (("ray_node_cpu_utilization", "{{instance}}"),), "percent"),
        Panel("Memory in use", (("ray_node_mem_used / ray_node_mem_total", "{{instance}}"),), "percentunit"),
        Panel("GPU", (("ray_node_gpus_utilization", "{{instance}} {{GpuIndex}}"),), "percent"),
        Panel("GPU memory", (("ray_node_gram_used", "{{instance}} {{GpuIndex}}"),), "decmbytes"),
        Panel("Object store", (("sum by (instance) (ray_object_store_memory)", "{{instance}}"),), "bytes"),
        Panel("Ray Data: rows by operator", (("ray_data_output_rows", "{{dataset}} {{operator}}"),)),
        Panel("Ray Data: spilled", (("sum by (dataset) (ray_data_spilled_bytes)", "{{dataset}}"),), "bytes"),
    ],
}


def dashboard() -> dict[str, Any]:
    """The Grafana dashboard."""
    return {
        "title": "ccp-ray",
        "uid": "ccp-ray",
        "schemaVersion": 39,
        "tags": ["ray", "ccp-ray"],
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _runs()]},
        "panels": list(_panels()),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _runs() -> dict[str, Any]:
    query = 'label_values({__name__=~"ray_ccp_ray_train_step|ray_ccp_ray_pieces_planned"}, run)'
    many = {"includeAll": True, "multi": True, "refresh": 2, "sort": 1, "allValue": ".*"}
    selected = {"text": "All", "value": "$__all"}
    return {"name": "run", "type": "query", "datasource": _SOURCE, "query": query, "current": selected} | many


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        for index, panel in enumerate(panels):
            number += 1
            x, y = index % 3 * _WIDTH, top + index // 3 * _HEIGHT
            yield _panel(panel, number, {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT})
        top += -(-len(panels) // 3) * _HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    # Ray serves a gauge for less than a minute after it was set, which may be less than from one row to the next.
    custom: dict[str, Any] = {"spanNulls": True, "fillOpacity": 30 if panel.stacked else 0}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def metrics_table() -> str:
    """docs/observability.md's list of metrics."""
    lines = ["| metric | type | unit | tags | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        tags = ", ".join(metric.tags)
        lines.append(f"| `{metric.exported}` | {metric.kind} | {metric.unit} | {tags} | {metric.meaning} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """The document with its table renewed, between two marks."""
    begin, end = "<!-- metrics: scripts/observability.py -->", "<!-- end of metrics -->"
    before, rest = text.split(begin)  # raises where a mark is missing: nothing may be lost behind it
    _, after = rest.split(end)
    return f"{before}{begin}\n{metrics_table()}\n{end}{after}"


def dashboard_text() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(dashboard_text(), encoding="utf-8")
    DOCS.write_text(with_table(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
