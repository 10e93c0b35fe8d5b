"""Bytes as people write and read them: 2GB in, 1.2 GB out. Decimal, as disks and object stores count."""

from __future__ import annotations

import re

_UNITS = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "KB": 1e3, "B": 1.0}
_BINARY = {"TIB": 2.0**40, "GIB": 2.0**30, "MIB": 2.0**20, "KIB": 2.0**10}


def parse_bytes(text: str) -> int:
    """2GB, 1.5 TB, 512MiB. Raises ValueError for anything else, and for less than a byte."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    size = (_UNITS | _BINARY).get(found[2].upper()) if found else None
    if found is None or size is None or float(found[1]) * size < 1:
        raise ValueError(f"expected a size such as 2GB or 512MiB, found {text!r}")
    return int(float(found[1]) * size)


def megabytes(count: float) -> str:
    """1.2 GB, 340 MB, 12 kB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
