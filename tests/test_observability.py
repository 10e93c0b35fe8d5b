"""The catalog of metrics, the dashboard, the documentation and Prometheus' configuration hold together."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray
import yaml

from ccp_ray.metric_catalog import METRICS, Metric
from ccp_ray.step_clock import PARTS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "cluster" / "metrics"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana_dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
FUNCTIONS = {"max", "sum", "rate", "histogram_quantile"}
# What the Prometheus exposition makes of one metric.
SUFFIXES = {"gauge": ("",), "counter": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("observability", ROOT / "scripts" / "observability.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def series(metric: Metric) -> set[str]:
    return {f"{metric.exported}{suffix}" for suffix in SUFFIXES[metric.kind]}


def asked_for(expression: str) -> set[str]:
    """Names of metrics in an expression: words that are neither labels, nor in quotes, nor functions."""
    bare = re.sub(r'\{[^}]*\}|"[^"]*"|\bby \([^)]*\)|\[[^\]]*\]', " ", expression)
    return {word for word in re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", bare) if word not in FUNCTIONS}


def rays_own() -> set[str]:
    """Names in the dashboards that Ray itself comes with."""
    folder = Path(ray.__file__).parent / "dashboard/modules/metrics/dashboards"
    return {name for path in folder.glob("*_panels.py") for name in re.findall(r"\bray_[a-z0-9_]+", path.read_text())}


def test_names_are_those_that_prometheus_takes():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"ccp_ray_[a-z][a-z0-9_]*", name)
        assert metric.meaning
        assert not name.endswith(("_total", "_bucket", "_sum", "_count"))  # Ray adds these
        if metric.kind == "gauge":
            assert metric.tags[0] == "run"
            assert len(metric.tags) <= 2
    assert len({metric.exported for metric in METRICS.values()}) == len(METRICS)
    assert all(part in METRICS["ccp_ray_step_seconds"].meaning for part in PARTS)


def test_every_expression_is_well_formed_and_asks_for_what_is_exported():
    ours = set().union(*map(series, METRICS.values()))
    for expression in EXPRESSIONS:
        for left, right in ("()", "{}", "[]"):
            assert expression.count(left) == expression.count(right), expression
        names = asked_for(expression)
        assert names, expression
        assert names <= ours | rays_own(), expression


def test_an_unknown_metric_would_be_found():
    assert asked_for('max by (run) (ray_ccp_ray_nonsense{run=~"$run"})') == {"ray_ccp_ray_nonsense"}
    assert asked_for("sum by (le) (rate(ray_x_bucket[5m])) / ray_y") == {"ray_x_bucket", "ray_y"}


def test_labels_in_expressions_and_legends_are_tags_of_the_metric():
    by_series = {name: metric for metric in METRICS.values() for name in series(metric)}
    for panel in PANELS:
        for target in panel["targets"]:
            for name in asked_for(target["expr"]) & by_series.keys():
                tags = {*by_series[name].tags, "le"}
                grouped = re.search(r"by \(([^)]*)\)", target["expr"])
                assert grouped is not None
                assert set(grouped.group(1).split(", ")) <= tags
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= tags
                assert set(re.findall(r"(\w+)=~", target["expr"])) <= tags


def test_every_metric_has_a_panel():
    shown = set().union(*map(asked_for, EXPRESSIONS))
    assert [name for name, metric in METRICS.items() if not series(metric) & shown] == []


def test_panels_have_numbers_and_places_of_their_own():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) == variables


def test_dashboard_and_table_are_what_the_script_writes(script: ModuleType):
    again = "run python scripts/observability.py"
    assert (FOLDER / "grafana_dashboard.json").read_text() == script.dashboard_text(), again
    text = script.DOCS.read_text()
    assert script.with_table(text) == text, again
    assert text.count("\n| `ray_ccp_ray_") == len(METRICS)
    empty = "before\n<!-- metrics: scripts/observability.py -->\n<!-- end of metrics -->\nafter\n"
    renewed = script.with_table(script.with_table(empty))
    assert renewed.startswith("before\n<!--")
    assert renewed.endswith("|\n<!-- end of metrics -->\nafter\n")


def test_prometheus_reads_the_file_that_ray_writes():
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    from ray._private import ray_constants

    written = f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"
    assert job["file_sd_configs"] == [{"files": [written]}]


def test_the_pod_monitor_selects_heads_and_workers_by_their_metrics_port():
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    assert monitor["kind"] == "PodMonitor"
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    assert expression == {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
