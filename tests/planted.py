"""Secrets that are planted in a run's environment, and where they are looked for afterwards."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PLANTED = {
    "AWS_ACCESS_KEY_ID": "CCPRAYPLANTEDKEY0001",
    "AWS_SECRET_ACCESS_KEY": f"planted/{secrets.token_urlsafe(30)}",
    "AWS_SESSION_TOKEN": f"planted+{secrets.token_urlsafe(60)}==",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
SECRETS = {name: value.encode() for name, value in PLANTED.items() if name != "RAY_AUTH_MODE"}
PLACES = ("RAY_TMPDIR", "TMPDIR", "HOME", "CCP_RAY_CACHE")  # where a run may write on this machine


@contextlib.contextmanager
def own_places() -> Iterator[dict[str, str]]:
    """Folders of a run's own. Their names are short, for Ray's sockets lie below."""
    folder = Path(tempfile.mkdtemp(prefix="ccp-ray-"))
    try:
        for name in PLACES:
            (folder / name[:3]).mkdir(exist_ok=True)
        yield {name: str(folder / name[:3]) for name in PLACES}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def found(where: str, data: bytes) -> list[str]:
    return [f"{name} in {where}" for name, value in SECRETS.items() if value in data]


def command_lines() -> Mapping[str, bytes]:
    """Of every process of this machine, as any user sees them."""
    lines = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                lines[folder.name] = (folder / "cmdline").read_bytes()
    return lines


def watched(process: subprocess.Popen[bytes], seconds: float) -> dict[str, bytes]:
    """Every command line that was there while the process ran."""
    seen: dict[str, bytes] = {}
    for _ in range(int(seconds / 0.1)):
        seen |= {line.decode(errors="replace"): line for line in command_lines().values()}
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return seen
    process.kill()
    raise AssertionError(f"not done after {seconds} s")
