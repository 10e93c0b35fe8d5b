"""Paths of a command line that mean something on this machine and nothing on a cluster.

A relative output would be written into the job's copy of the checkout, which the cluster deletes; relative data that
lie here are not there. Both are refused. An absolute path may be a file system that all nodes share, so it is only said
what it takes. A name that is no file here (`org/model`, s3://…, package://…) is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ccp_ray.errors import UsageError
from ccp_ray.job_package import Package
from jobs.submittable import Asked

# Options whose value is a path; positional arguments are paths too.
_PATHS = (
    "data",
    "calibration",
    "query_encoder",
    "cache",
    "reuse",
    "runs",
    "squad",
    "encoder",
    "passages",
    "index",
    "queries",
)


def check_paths(asked: Asked, package: Package) -> list[str]:
    """What to tell of paths that may be shared. Raises UsageError for those that cannot mean anything there."""
    if not _elsewhere(asked.output):
        raise UsageError(
            f"--output {asked.output}: a relative path is a folder of the job's own, which the cluster deletes; give "
            "an s3:// URI, or the absolute path of a file system that all nodes share"
        )
    _check_benchmarks(asked, package)
    notes = []
    if "://" not in asked.output:
        notes.append(f"--output {asked.output} must be on a file system that all nodes of the cluster share")
    for where, text in [*_arguments(asked), *_settings(asked)]:
        if "://" in text:
            continue
        if not Path(text).is_absolute():
            raise UsageError(
                f"{where}: {text} is on this machine, the cluster does not have it; copy it to the store and give its "
                "s3:// URI, or the absolute path of a file system that all nodes share"
            )
        notes.append(f"{where}: {text} must be on a file system that all nodes of the cluster share")
    return notes


def _check_benchmarks(asked: Asked, package: Package) -> None:
    """A benchmark of the user's own is code: it travels with the checkout, and is named from there."""
    for name in str(asked.given.get("benchmarks") or "").split(","):
        if name.strip().endswith(".py") and name.strip() not in package.files:
            raise UsageError(
                f"--benchmarks {name.strip()}: the file must be in the checkout that travels with the job "
                f"({package.root}), named from its top folder"
            )


def _elsewhere(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()


def _arguments(asked: Asked) -> Iterator[tuple[str, str]]:
    for name, value in asked.given.items():
        if name == "texts" and asked.verb == "search":
            continue  # what is searched for
        if name in asked.options and name not in _PATHS:
            continue
        where = asked.options.get(name, name.upper())
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _is_here(text):
                yield where, text


def _settings(asked: Asked) -> Iterator[tuple[str, str]]:
    if asked.settings is None:
        return
    dumped = asked.settings.model_dump(mode="json")
    data = str(dumped.get("data") or "")
    for key, value in _strings(dumped, ""):
        text = value.replace("{data}", data)
        # A word may be the name of a folder by chance; of a file hardly.
        if _is_here(text) and ("/" in text or Path(text).is_file()):
            yield key, text


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{key}[{number}]")


def _is_here(text: str) -> bool:
    """Whether a file, folder or glob names something on this machine."""
    if "://" in text or not text or "\n" in text:
        return False
    parts = Path(text).parts
    plain = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    base = Path(*parts[:plain])
    try:
        if plain == len(parts):
            return base.exists()
        return next(base.glob("/".join(parts[plain:])), None) is not None
    except (OSError, ValueError):  # a name too long, a zero byte, not a pattern: no path
        return False
