"""Names under which Ray's dashboard shows what jobs start."""

from __future__ import annotations

import re


def shown_name(what: str, uri: str) -> str:
    """`pretrain-run-encoder`: what it is, and the last two folders of what it works on; fit for a file name."""
    folders = [part for part in uri.partition("://")[2].split("/") or [] if part] or uri.strip("/").split("/")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([what, *folders[-2:]]))
