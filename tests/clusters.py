"""A real cluster, started as an administrator would, with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from command_line import SETTINGS
from s3_servers import free_port

ROOT = Path(__file__).resolve().parent.parent
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Cluster:
    """A head node on loopback."""

    address: str
    environment: Mapping[str, str]
    dashboard: str = ""  # http://…, where it was asked for

    def run(self, verb: str, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """A verb in a process of its own, as in a shell that holds the token."""
        chosen = [part for value in SETTINGS.get(verb, []) for part in ("--set", value)]
        command = [sys.executable, "-m", f"jobs.{verb}", *map(str, arguments), *chosen, "--address", self.address]
        environment = {**self.environment, **changes}
        return subprocess.run(
            [*command, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )


@contextlib.contextmanager
def started_cluster(
    dashboard: bool = False, own: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A head node of two CPUs that demands a token. own: of the nodes' environment alone; more: also of clients'."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    # Ray's sockets lie below: a path of pytest's would be longer than a socket's name may be.
    folder = tempfile.mkdtemp(prefix="ccp-ray-")
    environment = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}
    # A node that died is missed after two seconds, not fifteen.
    environment |= {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
    environment |= more or {}
    port = free_port()
    head = ["--head", f"--port={port}", f"--ray-client-server-port={free_port()}"]
    head += [f"--include-dashboard={str(dashboard).lower()}"]
    url = ""
    if dashboard:
        page, agent = free_port(), free_port()
        url = f"http://127.0.0.1:{page}"
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={page}", f"--dashboard-agent-listen-port={agent}"]
    # Submitted jobs run the `python` of this PATH.
    nodes = environment | {"PATH": f"{RAY.parent}{os.pathsep}{environment.get('PATH', '')}"} | dict(own or {})
    try:
        with node([*head, f"--temp-dir={folder}", "--num-cpus=2"], nodes):
            yield Cluster(f"127.0.0.1:{port}", environment, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def node(options: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    """A node that has started."""
    shared = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--object-store-memory=100000000"]
    process = subprocess.Popen(
        [RAY, "start", *shared, *options],
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    try:
        assert process.stdout is not None
        for line in process.stdout:  # ends with the process, if that fails
            if "--block" in line or "Ray runtime started" in line:
                break
        yield
    finally:
        if process.poll() is None:
            # By id: no other Ray may suffer.
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait(30)


def json_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line on standard output. Fails where the command did, or where it printed more."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)
