"""Secrets that are planted in a run's environment, and where they are looked for afterwards."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import secrets
import shutil
import subprocess
import tempfile
import urllib.parse
import zipfile
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
    """Of the secrets, those in the data: as they are or encoded, also inside a gzip or zip file."""
    layers = list(unpacked(data))
    return [f"{name} in {where}" for name in SECRETS if any(form in layer for form in FORMS[name] for layer in layers)]


def encoded(secret: bytes) -> set[bytes]:
    """As it is, as part of a URL, in hexadecimal digits, and inside base64 wherever it begins."""
    forms = {secret, urllib.parse.quote(secret, safe="").encode(), secret.hex().encode()}
    for before in range(3):
        # Whole characters of the secret alone; those at its ends share bits with what is around.
        first, last = -(-8 * before // 6), 8 * (before + len(secret)) // 6
        text = bytes(before) + secret
        forms |= {encode(text)[first:last] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return forms


FORMS = {name: encoded(secret) for name, secret in SECRETS.items()}


def unpacked(data: bytes) -> Iterator[bytes]:
    """The data, and what lies in it where it is a gzip or zip file."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(data))
    elif zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from unpacked(archive.read(name))


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
