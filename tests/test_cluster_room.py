"""Whether a cluster has room for a job: whole workers on single nodes, now or at all."""

from __future__ import annotations

from typing import Any

import pytest

from ccp_ray.cluster_room import Need, Room, room


def told(address: str, cpus: float, gpus: float = 0, state: str = "ALIVE") -> dict[str, Any]:
    """As the dashboard has it; a node without GPUs names none."""
    resources = {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})
    return {
        "node_ip": address,
        "node_id": f"id-{address}",
        "state": state,
        "is_head_node": address == "a",
        "resources_total": resources,
    }


TWO = [told("a", 8, 1), told("b", 8, 1), told("c", 64, 8, state="DEAD")]


@pytest.mark.parametrize(
    ("need", "verdict"),
    [
        (Need(), "fits"),
        (Need(workers=16), "fits"),
        (Need(workers=17), "small"),
        (Need(workers=2, cpus=5), "fits"),
        (Need(workers=3, cpus=5), "small"),  # 16 CPUs, but a worker lies on one node
        (Need(workers=2, gpus=1), "fits"),
        (Need(workers=1, gpus=2), "small"),
        (Need(workers=10, cpus=0.7), "fits"),
    ],
)
def test_workers_lie_on_single_nodes(need: Need, verdict: str):
    assert room(TWO, None).verdict(need) == verdict


def test_what_others_use_is_busy_and_not_small():
    used = {"a": {"CPU": [8.0, 8.0], "GPU": [1.0, 1.0]}, "id-b": {"CPU": [2.0, 8.0]}}  # by address or id
    have = room(TWO, used)
    assert have.verdict(Need(workers=6)) == "fits"
    assert have.verdict(Need(workers=7)) == "busy"
    assert have.verdict(Need(workers=2, gpus=1)) == "busy"
    assert str(have) == "2 nodes with 16 CPUs and 2 GPUs, of which 6 CPUs and 1 GPUs are free"


def test_without_a_report_of_use_nodes_count_as_they_are():
    have = room(TWO, None)
    assert have.verdict(Need(workers=16)) == "fits"
    assert "not told" in str(have)


def test_no_node_is_no_room():
    assert Room(nodes=[]).verdict(Need()) == "small"
