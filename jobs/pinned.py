"""Files of a git repository at a pinned commit, without a clone: the commit id is the checksum.

`git fetch` asks for exactly one commit without its history (--depth 1) and without file contents (blob:none); the tree
that comes back names every file's object id, and a second fetch brings the contents of the wanted files only. git
computes the id of every object that it receives from its bytes (SHA-1 with collision detection), so that the commit id
in the table covers each byte that is read here; a server, a mirror or a proxy cannot put another text in its place.
Contents are read as they are stored (`git cat-file`): attributes, filters and hooks of the repository do not run.

Servers that cannot leave contents out send the whole commit; the result is the same. Needs git 2.29 or later.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ccp_ray.errors import DataError, UsageError

_STALLED = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")  # a dead connection ends after a minute
_SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never", "-c", "gc.auto=0")
_FETCH = ("-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
          "--no-recurse-submodules", "--filter=blob:none")  # fmt: skip
_OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_NAMESPACE")


@dataclass(frozen=True)
class PinnedTree:
    """One commit's files: `blobs` is path -> object id."""

    url: str
    commit: str
    folder: Path
    blobs: Mapping[str, str]

    def read(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Contents in the order of `paths`, fetched together. Raises DataError, KeyError for a path not in the tree."""
        ids = [self.blobs[path] for path in paths]
        wanted = "".join(f"{blob}\n" for blob in ids).encode()
        _git(self.folder, self.url, self.commit, *_FETCH, "--stdin", "origin", stdin=wanted)
        for path, blob in zip(paths, ids, strict=True):
            yield path, _git(self.folder, self.url, self.commit, "cat-file", "blob", blob)


@contextlib.contextmanager
def pinned_tree(url: str, commit: str) -> Iterator[PinnedTree]:
    """The files of `commit` at `url` (https://, file:// or a folder), for as long as the context lasts.

    Raises UsageError for another kind of address and for a missing git, DataError when the commit cannot be had.
    """
    if not (url.startswith(("https://", "file://")) or Path(url).is_absolute()):
        raise UsageError(f"{url}: expected an https:// or file:// address, or the full path of a folder")
    with tempfile.TemporaryDirectory(prefix="ccp-ray-git-") as name:
        folder = Path(name)
        _git(folder, url, commit, "init", "--quiet", "--bare", ".")
        for setting, value in {"remote.origin.url": url, "remote.origin.promisor": "true"}.items():
            _git(folder, url, commit, "config", setting, value)
        _git(folder, url, commit, *_FETCH, "--depth=1", "origin", commit)
        listed = _git(folder, url, commit, "ls-tree", "-r", "-z", "--full-tree", commit).decode("utf-8", "replace")
        blobs = {}
        for entry in listed.split("\0")[:-1]:
            about, _, path = entry.partition("\t")
            _, kind, blob = about.split(" ")
            if kind == "blob":
                blobs[path] = blob
        yield PinnedTree(url, commit, folder, blobs)


def _git(folder: Path, url: str, commit: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """Standard output of git in `folder`. Raises UsageError without git, DataError with git's last line."""
    # No prompt for a password, no repository but this one, and messages that do not depend on the user's language.
    environment = {key: value for key, value in os.environ.items() if key not in _OF_ANOTHER}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}
    command = ["git", *_SAFE, *_STALLED, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed, and the novels are fetched with it; install git") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise DataError(
            f"{url}: commit {commit} cannot be read (git: {said[-1]}); check the network and the "
            "address, and run the same command again, or take a copy with --from DIR"
        )
    return done.stdout
