"""Code that a model folder brings: never run, unless somebody names exactly this code.

A model of a family that transformers does not know comes with Python files that define it (`auto_map` in config.json);
loading it runs them. CCP_RAY_TRUST_MODEL_CODE holds the digests of files that may run, by comma: a folder whose code is
another tomorrow is refused again, which a plain yes would not do. A refusal says the digest. It holds for encoding;
training takes what transformers knows.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ccp_ray.errors import UsageError

VARIABLE = "CCP_RAY_TRUST_MODEL_CODE"
_DIGITS = 32
_NAMED_IN = ("config.json", "tokenizer_config.json")


def trusted(folder: Path) -> bool:
    """Whether the folder brings code and it may run. Raises UsageError for one that would fetch code from elsewhere."""
    allowed = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")}
    references = _references(folder)
    if not references or code_digest(folder) not in allowed:
        return False
    elsewhere = sorted(name for name in references if "--" in name)
    if elsewhere:
        raise UsageError(
            f"{folder}: names code of another repository ({elsewhere[0]}), which no digest of this folder covers; "
            "copy it here and name it without REPOSITORY--"
        )
    return True


def how_to_trust(folder: Path) -> str:
    """For the end of a message: nothing where the folder brings no code."""
    if not _references(folder):
        return ""
    names = ", ".join(path.relative_to(folder).as_posix() for path in code_files(folder)) or "none is there"
    return (
        f"; it brings code ({names}), which is not run. To run exactly this: read it, then set "
        f"{VARIABLE}={code_digest(folder)}"
    )


def code_files(folder: Path) -> list[Path]:
    """All Python files of the folder: the named ones may import the others."""
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


def code_digest(folder: Path) -> str:
    """Of the names and contents of `code_files`."""
    digest = hashlib.sha256()
    for path in code_files(folder):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:_DIGITS]


def _references(folder: Path) -> set[str]:
    """What `auto_map` names: MODULE.CLASS, or REPOSITORY--MODULE.CLASS."""
    found: set[str] = set()
    for name in _NAMED_IN:
        try:
            named = json.loads((folder / name).read_bytes()).get("auto_map") or {}
        except (OSError, ValueError, AttributeError):
            continue  # who reads it next says what is wrong
        for value in named.values():
            found |= {str(each) for each in (value if isinstance(value, list) else [value]) if each}
    return found
