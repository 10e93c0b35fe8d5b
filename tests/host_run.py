"""A pipeline on several hosts, what is done to it, and how long it then commits nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from hosts import Host, Lan
from pipeline_run import commits, in_progress
from ranks import wait_until

_PATIENCE_S = 300.0


@dataclass
class HostRun:
    """`ccp-ray pipeline` with its driver on the head's host, a; the same command, whenever it is started.

    starts_left: how often a driver that ended with an error may be started again, as a person would.
    """

    lan: Lan
    recipe: Path
    name: str
    log: Path
    starts_left: int = 0
    other: str = "b"  # the host beside the head's
    table: list[dict[str, Any]] = field(default_factory=list)
    driver: Popen[bytes] = field(default=None)  # type: ignore[assignment]

    @property
    def run(self) -> Path:
        """Where its objects lie."""
        return self.lan.objects / self.name / "run"

    @property
    def head(self) -> Host:
        return self.lan["a"]

    @property
    def node(self) -> Host:
        return self.lan[self.other]

    @property
    def third(self) -> str:
        """The name of the host that is no part of the cluster."""
        return "c" if self.other == "b" else "b"

    def start(self) -> None:
        arguments = ["--config", str(self.recipe), "--output", f"s3://{self.name}/run"]
        self.driver = self.head.verb("pipeline", *arguments, head=self.head, log=self.log)

    def stop(self) -> None:
        """SIGKILL to the driver."""
        self.driver.kill()
        self.driver.wait(60)

    def new_cluster(self) -> None:
        """A head with one CPU, a node with one, nothing on their disks; no host is slow or cut off any more."""
        for name in "abc":
            self.lan[name].kill_all()
            self.lan[name].wipe()
            self.lan[name].mend()
            self.lan[name].slow(0)
        self.head.start_ray(1)
        self.node.start_ray(1, head=self.head)

    def wait_for(self, ready: Callable[[], bool], what: str, every: float = 0.5) -> None:
        """Fails with the log where the driver ends before, or nothing is committed for too long."""

        def over() -> bool:
            if self.driver.poll() not in (None, 0) and self.starts_left > 0:
                self.starts_left -= 1
                self.start()
            return ready() or self.driver.poll() is not None

        ended, before = False, None
        while not ended and (now := commits(self.run)) != before:
            ended, before = wait_until(over, _PATIENCE_S, every), now
        assert ready(), f"{'ended before' if ended else 'waited too long for'} {what}:\n{self.log.read_text()[-4000:]}"

    def reach(self, stage: str) -> None:
        self.wait_for(lambda: in_progress(self.run, stage), stage, every=0.02)

    def wait_for_work(self) -> None:
        """Until tasks or actors of this driver's stage run somewhere."""
        hosts = (self.head, self.node)
        self.wait_for(lambda: any(host.processes("ray::Map") for host in hosts), "work")

    def finish(self) -> None:
        self.wait_for(lambda: self.driver.poll() == 0, "the end")

    def disturb(self, fault: str, stage: str, act: Callable[[HostRun], None]) -> None:
        """Do it, wait until something is committed again or nothing is left to do, and note how long that took."""
        began, starts = time.monotonic(), self.starts_left
        act(self)
        before = commits(self.run)
        # Often: what comes next may be a stage that takes no second.
        self.wait_for(
            lambda: bool(commits(self.run) - before) or self.driver.poll() == 0,
            f"a commit after {fault} in {stage}",
            every=0.02,
        )
        row = {"fault": fault, "stage": stage, "seconds": round(time.monotonic() - began, 1)}
        self.table.append(row | {"gave_up": starts - self.starts_left})


def read_table(path: str) -> list[dict[str, Any]]:
    """Rows that `write_table` wrote."""
    return json.loads(Path(path).read_text()) if Path(path).exists() else []


def write_table(path: str, rows: list[dict[str, Any]]) -> None:
    """Add rows to those of a file, one a line."""
    lines = [json.dumps(row) for row in [*read_table(path), *rows]]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("[\n" + ",\n".join(lines) + "\n]\n")
