"""A benchmark in a file of one's own: `--benchmarks path/to/mine.py`, a file that defines `load(data)`.

`load` gets the URI of --data and returns a benchmark of either kind (`eval.protocol.Benchmark`,
`eval.ranked.RankedBenchmark`); docs/benchmarks.md has an example. The benchmark goes by the file's name. The file is
Python and is run as this process runs: only a file that the user named is ever loaded, and its checksum is part of the
evaluation's inputs, because it decides the scores.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccp_ray.errors import CcpError, DataError, UsageError
from eval.protocol import Benchmark
from eval.ranked import RankedBenchmark

_ENDING = ".py"
_NAME = re.compile(r"[A-Za-z0-9_]+")
_BOTH = ("name", "score", "describe", "key")
_RANKED = ("depth", "needs_text", "collections", "questions")


def is_plugin(name: str) -> bool:
    """Whether a benchmark is named by a file."""
    return name.endswith(_ENDING)


def plugin_name(path: str) -> str:
    """What the benchmark of a file is called. Raises UsageError for a name that a folder cannot have."""
    name = Path(path).name.removesuffix(_ENDING)
    if not _NAME.fullmatch(name):
        raise UsageError(f"{path}: a benchmark goes by its file's name; use letters, digits and _ only")
    return name


def plugin_digest(path: str) -> str:
    """sha256 of the file."""
    return hashlib.sha256(_code(path)).hexdigest()


def load_plugin(path: str, data: str, collections: bool = True) -> Benchmark | RankedBenchmark:
    """The benchmark that a file's `load(data)` returns, under the file's name.

    collections: whether one that ranks passages must have them, and questions that fit them.

    Raises UsageError for a file that cannot be run or defines no `load`, and questions that do not fit; DataError where
    `load` fails or returns something else.
    """
    load = _function(path)
    with _told(f"{path}: load({data!r})"):
        benchmark = load(data)
    needed = (*_BOTH, "texts") if hasattr(benchmark, "texts") else (*_BOTH, *_RANKED)
    missing = [name for name in needed if name != "name" and not hasattr(benchmark, name)]
    if missing:
        raise DataError(
            f"{path}: load returned {type(benchmark).__name__} without {missing[0]!r}; expected a benchmark: "
            f"{', '.join((*_BOTH, 'texts'))}, or {', '.join((*_BOTH, *_RANKED))}"
        )
    _name(benchmark, path)
    if collections and hasattr(benchmark, "collections"):
        _check_collections(benchmark, path)
    return benchmark  # type: ignore[no-any-return]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """A failure of the file's own code as a DataError; errors of this program stay as they are."""
    try:
        yield
    except CcpError:
        raise
    except Exception as error:
        raise DataError(f"{what} failed: {type(error).__name__}: {error}") from error


def _name(benchmark: Any, path: str) -> None:
    """Give the benchmark its file's name. Raises DataError for one that takes none (a NamedTuple, frozen)."""
    name = plugin_name(path)
    if getattr(benchmark, "name", None) == name:
        return
    try:
        benchmark.name = name
    except (AttributeError, TypeError):
        raise DataError(
            f"{path}: load returned {type(benchmark).__name__}, whose name cannot be set; return an object of a class "
            f"that lets it, or with the name {name!r}"
        ) from None


def _check_collections(benchmark: RankedBenchmark, path: str) -> None:
    """Raises UsageError unless questions name the benchmark's collections, and each is asked."""
    with _told(f"{path}: collections()"):
        names = [one.name for one in benchmark.collections()]
    with _told(f"{path}: questions()"):
        asked = {question.collection: question.id for question in benchmark.questions()}
    unknown = next((name for name in asked if name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"{path}: question {asked[unknown]!r} asks collection {unknown!r}, which collections() does not name; it "
            f"names {', '.join(names) or 'none'}"
        )
    unasked = next((name for name in names if name not in asked), None)
    if unasked is not None or not names:
        raise UsageError(f"{path}: no question asks collection {unasked!r}" if names else f"{path}: no collections")


def _code(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; expected a Python file with load(data)") from None


def _function(path: str) -> Callable[[str], Any]:
    _code(path)
    spec = importlib.util.spec_from_file_location(f"ccp_ray_benchmark_{plugin_name(path)}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: Python does not know how to load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, "load", None)):
        raise UsageError(f"{path}: defines no function load(data)")
    return module.load  # type: ignore[no-any-return]
