"""Faults of hosts, by name: what `HostRun.disturb` does to a running pipeline, and what an administrator then does."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from host_run import HostRun
from ranks import wait_until

OUT_S, LONG_OUT_S, CUT_S, SLOW = 24.0, 150.0, 4.0, 4
_DRIVER_ENDS_S = 300.0


_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # a node ends with either of them


def worker_killed(hosted: HostRun) -> None:
    """One that works, on the node or else on the head's host; the first that comes, where none is there yet."""

    def kill() -> bool:
        for beginning in ("ray::RayTrainWorker", "ray::Map", "ray::"):
            for host in (hosted.node, hosted.head):
                agents = {process.pid for agent in _AGENTS for process in host.processes(agent)}
                if found := [process for process in host.processes(beginning) if process.pid not in agents]:
                    found[-1].kill()
                    return True
        return False

    assert wait_until(kill, 60), "no worker runs"


def raylet_killed(hosted: HostRun) -> None:
    assert hosted.node.kill(containing="raylet/raylet")
    node_back(hosted)


def node_back(hosted: HostRun) -> None:
    hosted.node.kill_all()  # what ends with its raylet, in a moment
    hosted.node.start_ray(1, head=hosted.head)


def cut_for_a_while(hosted: HostRun) -> None:
    """Longer than Ray waits: its node is dead for Ray, and has to be started again."""
    hosted.node.cut()
    time.sleep(CUT_S)
    hosted.node.mend()
    node_back(hosted)


def cut_for_good(hosted: HostRun) -> None:
    """Another host comes, late, and is as slow as the first."""
    hosted.node.cut()
    hosted.other = hosted.third
    hosted.node.kill_all()
    hosted.node.mend()
    hosted.node.start_ray(1, head=hosted.head)


def driver_killed(hosted: HostRun) -> None:
    hosted.stop()
    hosted.start()


def cluster_lost(hosted: HostRun) -> None:
    """All hosts lose power and disks, the head's with the driver first; then the same command on another cluster."""
    hosted.head.kill_all()
    hosted.driver.wait(60)
    hosted.new_cluster()
    hosted.start()


def head_killed(hosted: HostRun) -> None:
    """Ray's head alone: its driver ends by itself. The node's workers are orphans, and may go on while a new cluster,
    of the head's host and another one, works for the same command.
    """
    said = len(hosted.log.read_text())
    assert hosted.head.kill(containing="gcs/gcs_server")
    assert hosted.head.kill(containing="raylet/raylet")
    assert hosted.driver.wait(_DRIVER_ENDS_S) != 0

    def told() -> bool:  # which it is depends on what the driver just does
        last = hosted.log.read_text()[said:]
        return "is gone" in last or "ended from without" in last

    assert wait_until(told, 5), hosted.log.read_text()[-4000:]
    assert "Traceback" not in hosted.log.read_text()[said:], hosted.log.read_text()[-4000:]
    hosted.head.kill_all()
    hosted.head.wipe()
    hosted.other = hosted.third
    hosted.node.kill_all()
    hosted.node.mend()  # an earlier fault may have cut it off
    hosted.head.start_ray(1)
    hosted.node.start_ray(1, head=hosted.head)
    hosted.start()


def store_refuses(hosted: HostRun, seconds: float = OUT_S) -> None:
    hosted.lan.outage("503")
    time.sleep(seconds)
    hosted.lan.proxy.clear()


def store_cut_off(hosted: HostRun, seconds: float = OUT_S) -> None:
    hosted.lan["store"].cut()
    time.sleep(seconds)
    hosted.lan["store"].mend()


def hosts_slow(hosted: HostRun) -> None:
    hosted.node.slow(SLOW)
    time.sleep(OUT_S)
    hosted.node.slow(0)


WORKER, RAYLET, REPLACED, LOST, HEAD = (
    *("worker killed", "raylet killed, node started again", "host cut off for good, another comes"),
    *("all hosts lose power and disks, new cluster", "Ray's head killed, its node's workers left, new cluster"),
)
DRIVER, REFUSES = "driver killed, started again", f"store answers 503 for {OUT_S:.0f} s"
FAULTS: dict[str, Callable[[HostRun], None]] = {
    WORKER: worker_killed,
    RAYLET: raylet_killed,
    "host loses power, comes back": node_back,
    f"host cut off for {CUT_S:.0f} s": cut_for_a_while,
    REPLACED: cut_for_good,
    LOST: cluster_lost,
    HEAD: head_killed,
    DRIVER: driver_killed,
    REFUSES: store_refuses,
    f"store cut off for {OUT_S:.0f} s": store_cut_off,
    f"store answers 503 for {LONG_OUT_S:.0f} s": partial(store_refuses, seconds=LONG_OUT_S),
    f"store cut off for {LONG_OUT_S:.0f} s": partial(store_cut_off, seconds=LONG_OUT_S),
    f"host slow ({SLOW} Mbit/s) for {OUT_S:.0f} s": hosts_slow,
}
