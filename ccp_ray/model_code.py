"""Code that a model folder brings: never run, unless somebody names exactly this code.

A model of a family that transformers does not know comes with Python files that define it (`auto_map` in config.json);
loading it runs them. CCP_RAY_TRUST_MODEL_CODE holds the digests of files that may run, by comma: a folder whose code is
another tomorrow is refused again, which a plain yes would not do. A refusal says the digest. It holds for the model of
an encoder that encodes; a tokenizer, and training, take what transformers knows.

transformers follows more than file names: a path, a subfolder behind a link, another repository. The digest covers the
Python files of the folder itself, so nothing else may be named.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ccp_ray.errors import UsageError

VARIABLE = "CCP_RAY_TRUST_MODEL_CODE"
FOREIGN = (ImportError, AttributeError, TypeError, NameError, SyntaxError)  # what code of others raises when it loads
_DIGITS = 32
_HERE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")  # FILE.CLASS


def trusted(folder: Path) -> bool:
    """Whether the folder brings code and it may run. Raises UsageError where its digest would not cover what runs."""
    references = _references(folder)
    if not references or not _named(folder):
        return False
    files = {path.name for path in code_files(folder)}
    for name in references:
        if not _HERE.fullmatch(name) or f"{name.partition('.')[0]}.py" not in files:
            raise UsageError(
                f"{folder}/config.json: auto_map names {name}, which the digest of this folder's code does not cover; "
                "expected FILE.CLASS with FILE.py in the folder itself"
            )
    return True


@contextlib.contextmanager
def trusting(folder: Path) -> Iterator[bool]:
    """`trusted`, for as long as something is loaded. One process at a time: transformers copies the code to a place
    that all share, and another would run half a file.
    """
    trust = trusted(folder)
    if not trust:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(descriptor)


def how_to_trust(folder: Path) -> str:
    """For the end of a message: nothing where the folder brings no code, or it was run."""
    if not _references(folder) or _named(folder):
        return ""
    names = ", ".join(path.name for path in code_files(folder)) or "none is there"
    return (
        f"; it brings code ({names}), which is not run. To run exactly this: read it, then set "
        f"{VARIABLE}={code_digest(folder)}"
    )


def code_files(folder: Path) -> list[Path]:
    """The Python files of the folder itself: the named ones may import the others."""
    return sorted(path for path in folder.glob("*.py") if path.is_file())


def code_digest(folder: Path) -> str:
    """Of the names and contents of `code_files`."""
    digest = hashlib.sha256()
    for path in code_files(folder):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:_DIGITS]


def _named(folder: Path) -> bool:
    allowed = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")}
    return code_digest(folder) in allowed


def _references(folder: Path) -> set[str]:
    """What `auto_map` names."""
    try:
        named = json.loads((folder / "config.json").read_bytes())["auto_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # there is none, or who reads the file next says what is wrong with it
    return {str(value) for value in (named.values() if isinstance(named, dict) else [named]) if value}
