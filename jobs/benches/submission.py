"""The submission part of the bench: seconds from typing `ccp-ray submit` to the first line of the job's log.

A head node with dashboard and token runs on this machine. The command is a process of its own, so starting Python and
importing every verb count. The first round uploads the package of the checkout; later ones find it there, as the same
files are the same package.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccp_ray.errors import CcpError
from jobs.benches.figures import BenchOptions, Figure, median, report
from jobs.loopback import free_port, running

_SUBMITTED, _FIRST_LINE = "submitted", "first line of its log"
_PATIENCE_S = 60.0
_JOB = ("generate", "--set", "count=2", "--set", "concepts=60", "--set", "documents=12", "--set", "dev_documents=3")


def submission_bench(options: BenchOptions) -> dict[str, Any]:
    """The figures. Raises CcpError where the cluster does not start or the job ends in an error."""
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as folder, _head(Path(folder)) as environment:
        measured = [_submit(environment, Path(folder)) for _ in range(options.rounds)]
    figures = [
        Figure(f"from the command to `{_SUBMITTED}`", median(measured, _SUBMITTED), "s"),
        Figure(f"from the command to the {_FIRST_LINE}", median(measured, _FIRST_LINE), "s", at_most=15),
        Figure("the same, in the first round, with the upload", measured[0][_FIRST_LINE], "s", at_most=15),
    ]
    return report(figures, seconds=measured)


@contextlib.contextmanager
def _head(folder: Path) -> Iterator[dict[str, str]]:
    """A head node on loopback; the environment of its clients."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    beside = Path(sys.executable).parent
    nodes = clean | token | {"PATH": f"{beside}{os.pathsep}{clean.get('PATH', '')}", "RAY_TMPDIR": str(folder)}
    page = free_port()
    command: list[str | Path] = [beside / "ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={folder / 'ray'}"]
    command += ["--include-dashboard=true", f"--dashboard-port={page}", f"--dashboard-agent-listen-port={free_port()}"]
    with running(command, page, folder / "head.log", nodes):
        clients = clean | token | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{page}"}
        _wait_for_room(clients, folder)
        yield clients


def _wait_for_room(environment: dict[str, str], folder: Path) -> None:
    """The dashboard listens some seconds before Ray reports the node that it runs on."""
    command = [*_command(folder / "planned"), "--plan", "--json"]
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        planned = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if planned.returncode == 0 and json.loads(planned.stdout.splitlines()[-1])["verdict"] == "fits":
            return
        if time.monotonic() > deadline:
            said = (planned.stdout + planned.stderr)[-1000:]
            raise CcpError(f"bench submission: the cluster has no room for a job; it said: {said}")


def _command(output: Path) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", "submit", *_JOB, "--output", str(output)]


def _submit(environment: dict[str, str], folder: Path) -> dict[str, float]:
    """Seconds until the command said that it has submitted, and until a line of the job's log was there."""
    command = _command(folder / f"out-{uuid.uuid4().hex[:8]}")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    seconds: dict[str, float] = {}
    said = []
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, **pipes) as client:
        for line in client.stdout or ():
            said.append(line)
            if _SUBMITTED not in seconds:
                if "ccp-ray: submitted" in line:
                    seconds[_SUBMITTED] = time.perf_counter() - started
            else:
                seconds.setdefault(_FIRST_LINE, time.perf_counter() - started)
    if client.returncode or len(seconds) < 2:
        raise CcpError(f"bench submission: the job did not run; it said: {''.join(said)[-1000:]}")
    return seconds
