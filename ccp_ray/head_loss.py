"""Says when the head of a Ray cluster is lost, which Ray itself tells in pages of traceback, or not at all.

Three ways lead out of it. Where a call fails, what Ray raises becomes one error. Where none does, because the driver
only waits, Ray ends the process after a minute without a word; so a thread knocks at the head, once in 5 s, and says
what is going on before. Where the driver just writes into the object store of its node and that is gone, Ray ends the
process at once; so a shell reads from a pipe that the driver holds, and speaks when that closes without a farewell.
"""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from ccp_ray.errors import CcpError
from ccp_ray.progress import say

_KNOCK_S = 10.0
_EVERY_S = 5.0
_MISSED = 3  # knocks, before it is told
_AGAIN = "What is committed stays: run the same command again on a cluster"


@contextlib.contextmanager
def head_loss_told(head: str) -> Iterator[None]:
    """What Ray raises where nobody answers at the head's address any more becomes one CcpError; silence is told."""
    from ray.exceptions import RayError

    try:
        with _watched(head), _witnessed():
            yield
    except (RayError, RuntimeError, ConnectionError) as error:
        if isinstance(error, CcpError) or answers(head):
            raise
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise CcpError(f"the head of the Ray cluster, {head}, is gone ({reason}). {_AGAIN}") from error


@contextlib.contextmanager
def _watched(head: str) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        missed = 0
        while not over.wait(_EVERY_S):
            missed, before = 0 if answers(head) else missed + 1, missed
            if missed == _MISSED:
                say(
                    f"the head of the Ray cluster, {head}, does not answer; if it is gone, Ray ends this run within a "
                    f"minute. {_AGAIN}",
                    level="warning",
                )
            elif before >= _MISSED and not missed:
                say("the head of the Ray cluster answers again")

    threading.Thread(target=look, name="head-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # not joined: it may be knocking where nobody is


@contextlib.contextmanager
def _witnessed() -> Iterator[None]:
    last_words = (
        f"this run was ended from without: killed, or by Ray, which does so where the driver's node is lost. {_AGAIN}"
    )
    # No child of this process, as Ray kills those before it ends it; a background job of sh has no standard input.
    script = 'exec 3<&0; { read -r farewell <&3 || printf "%s\\n" "$0" >&2; } &'
    command = ["/bin/sh", "-c", script, last_words]
    # In a session of its own: what a person interrupts says so by itself.
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=_screen(), start_new_session=True)
    shell.wait()
    assert shell.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            shell.stdin.write(b"farewell\n")
            shell.stdin.close()


def _screen() -> int:
    """Where `say` writes to: not file 2 where native noise is put aside, and no file where a test collects it."""
    try:
        return sys.stderr.fileno()
    except io.UnsupportedOperation:
        return 2


def answers(address: str) -> bool:
    """Whether a port (HOST:PORT) takes connections."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S):
        return True
    return False
