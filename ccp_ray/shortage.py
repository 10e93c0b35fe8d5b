"""Says when a training waits for machines.

Where a node is lost and no other comes, Ray Train starts its workers again and again until there is room for all, which
may be never, without a word. A node that comes back within seconds is no news: a lack is told when it was there twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from ccp_ray.progress import say


class Shortage:
    """What a stage needs to run at all, {"CPU": 2, "GPU": 0}, against what the cluster has."""

    def __init__(self, stage: str, need: Mapping[str, int]) -> None:
        self._stage, self._need = stage, need
        self._told, self._seen = "", 0

    def look(self, have: Mapping[str, float], *, at_once: bool = False) -> None:
        """Say what is missing, once, and when it is there again."""
        lack = self._lack(have)
        self._seen = self._seen + 1 if lack else 0
        if lack and lack != self._told and (self._seen > 1 or at_once):
            say(f"{self._stage}: waiting for {lack}")
            self._told = lack
        elif not lack and self._told:
            say(f"{self._stage}: the cluster has enough again")
            self._told = ""

    def _lack(self, have: Mapping[str, float]) -> str:
        for what, count in self._need.items():
            if count > have.get(what, 0):
                return (
                    f"{count} {what}s, the cluster has {have.get(what, 0):.0f}; start a node, or set resources.workers"
                )
        return ""
