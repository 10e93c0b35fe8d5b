"""Many command lines, each in a fresh process with an environment of its own, for the price of one import.

A server process imports the command line and Ray's client once and forks for each command (importing them takes
seconds). Ray reads RAY_AUTH_MODE when it is imported, so that is the server's; the token it reads at the first request,
and then keeps, so commands with different tokens cannot share a process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line on standard output."""
        assert self.out.count("\n") == 1, self.out + self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The error, which is the last line. Fails where there is a traceback."""
        assert "Traceback" not in self.err, self.err
        last = self.err.splitlines()[-1]
        assert last.startswith("ccp-ray: error: "), self.err
        return last.removeprefix("ccp-ray: error: ")


class ForkedCommands:
    """Runs `ccp-ray ARGUMENTS` one after the other. environment: all that the commands have."""

    def __init__(self, server: subprocess.Popen[str], environment: Mapping[str, str]) -> None:
        self.server, self.environment = server, dict(environment)

    def __call__(self, *arguments: object, folder: Path = ROOT, **changes: str | None) -> Done:
        environment = {name: value for name, value in {**self.environment, **changes}.items() if value is not None}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            order = {"arguments": list(map(str, arguments)), "environment": environment, "scratch": scratch}
            self.server.stdin.write(json.dumps({**order, "folder": str(folder)}) + "\n")
            self.server.stdin.flush()
            answer = self.server.stdout.readline()
            assert answer, "the server of commands died"
            return Done(int(answer), Path(scratch, "out").read_text(), Path(scratch, "err").read_text())


@contextlib.contextmanager
def forked_commands(environment: Mapping[str, str]) -> Iterator[ForkedCommands]:
    """A server for this long."""
    clean = {name: value for name, value in environment.items() if not name.startswith(("RAY_", "AWS_"))}
    clean |= {name: environment[name] for name in ("RAY_AUTH_MODE",) if name in environment}
    server = subprocess.Popen(
        [sys.executable, __file__],
        env=clean | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield ForkedCommands(server, environment)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(30)


def _serve() -> None:
    import ray.dashboard.modules.job.sdk
    import ray.job_submission  # noqa: F401

    from jobs.cli import main

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
            _end(main)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _end(main: Callable[[], None]) -> NoReturn:
    """At once: taking down an interpreter with torch in it takes a second."""
    code = 1
    try:
        main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(order: dict[str, Any]) -> None:
    """This forked process is the command's: its environment, folder, files and words."""
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(order["scratch"], name), os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = ["ccp-ray", *order["arguments"]]


if __name__ == "__main__":
    _serve()
