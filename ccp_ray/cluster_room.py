"""What a job needs of a cluster and what is there: workers of so many CPUs and GPUs, against the nodes.

A worker lies on one node whole, so two nodes with one GPU each are no room for a worker with two. What others use is
known as Ray's autoscaler reports it (every five seconds); a cluster without that report is judged by what its nodes
have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ccp_ray.config import StrictModel


class Need(StrictModel):
    """The workers that it takes to start, alike; `why` names the setting they come from."""

    workers: int = 1
    cpus: float = 1
    gpus: float = 0
    why: str = ""

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        each += f" and {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else ""
        count = f"{self.workers} workers of {each} each" if self.workers > 1 else f"one worker of {each}"
        return count + (f" ({self.why})" if self.why else "")


class Node(StrictModel):
    """A living node. free: None where the cluster does not say."""

    address: str
    head: bool
    cpus: float
    gpus: float
    free_cpus: float | None = None
    free_gpus: float | None = None

    def holds(self, need: Need, *, now: bool) -> int:
        """Workers that fit: at all, or beside what runs `now`."""
        cpus = self.free_cpus if now and self.free_cpus is not None else self.cpus
        gpus = self.free_gpus if now and self.free_gpus is not None else self.gpus
        limits = [have // each for have, each in ((cpus, need.cpus), (gpus, need.gpus)) if each]
        return int(min(limits, default=need.workers))


class Room(StrictModel):
    """The nodes of a cluster."""

    nodes: list[Node]

    @property
    def cpus(self) -> int:
        return int(sum(node.cpus for node in self.nodes))

    @property
    def gpus(self) -> int:
        return int(sum(node.gpus for node in self.nodes))

    def holds(self, need: Need, *, now: bool = False) -> int:
        """Workers that fit."""
        return sum(node.holds(need, now=now) for node in self.nodes)

    def verdict(self, need: Need) -> Literal["fits", "busy", "small"]:
        """`busy`: it would fit if others let go; `small`: it takes more or larger nodes."""
        if self.holds(need) < need.workers:
            return "small"
        return "fits" if self.holds(need, now=True) >= need.workers else "busy"

    def __str__(self) -> str:
        have = f"{len(self.nodes)} node{'s' * (len(self.nodes) != 1)} with {self.cpus} CPUs and {self.gpus} GPUs"
        if any(node.free_cpus is None for node in self.nodes):
            return f"{have} (what others use of them is not told)"
        free_cpus = sum(node.free_cpus or 0 for node in self.nodes)
        free_gpus = sum(node.free_gpus or 0 for node in self.nodes)
        return f"{have}, of which {free_cpus:g} CPUs and {free_gpus:g} GPUs are free"


def room(nodes: Sequence[Mapping[str, object]], usage: Mapping[str, Mapping[str, Sequence[float]]] | None) -> Room:
    """Of what Ray's dashboard says: `/api/v0/nodes`, and by node (used, total) of each resource.

    One of Ray's two autoscalers names nodes by id, the other by address.
    """
    return Room(nodes=[_node(node, usage) for node in nodes if node["state"] == "ALIVE"])


def _node(told: Mapping[str, object], usage: Mapping[str, Mapping[str, Sequence[float]]] | None) -> Node:
    address, total = str(told["node_ip"]), told["resources_total"]
    assert isinstance(total, Mapping)
    cpus, gpus = float(total.get("CPU", 0)), float(total.get("GPU", 0))
    node = Node(address=address, head=bool(told["is_head_node"]), cpus=cpus, gpus=gpus)
    used = (usage or {}).get(str(told["node_id"]), (usage or {}).get(address))
    if used is None:
        return node
    free = {name: have - used.get(name, (0.0, 0.0))[0] for name, have in (("CPU", cpus), ("GPU", gpus))}
    return node.model_copy(update={"free_cpus": free["CPU"], "free_gpus": free["GPU"]})
