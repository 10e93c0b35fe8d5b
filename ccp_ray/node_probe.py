"""What every node of a cluster is asked before work starts, so that one that cannot do the work is named at once.

One task without CPUs on each living node, all at the same time. It tells the versions of what decides results, a digest
of this library's code, the node's clock, the free space where Ray keeps its files, and whether the store can be
reached, read and (for an output) written from there with the node's own credentials. Without this a node with, say, a
wrong key fails its pieces minutes or hours later, and Ray tries each of them again before it gives up.

Clocks: a node's is compared with ours at the moments when its task was sent and answered, so the difference is known to
within that time (a second or two: a process has to start); the store's, by the Date of its answer, with the node's. S3
refuses requests of a clock that is 15 minutes off; from one minute on it is worth a word. Versions are compared without
their local part: a head node with torch for CPUs (2.13.0+cpu) and workers with CUDA belong together.

A local path must lie on a file system that all nodes share: each looks for a file that is put there.

Cost, two nodes on two cores: 2 s, nearly all of it the start of a worker process on each node, which the job's first
tasks then use. It grows with the slowest node, not with their number. A node that joins later is not asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ccp_ray.artifact import FAISS
from ccp_ray.errors import CcpError
from ccp_ray.progress import say
from ccp_ray.storage import TEMPORARY, LocalStore, Store, open_store

REFUSED_SKEW_S, NOTED_SKEW_S = 900.0, 60.0  # S3's limit
_MIN_FREE = 1 << 30
_RAY_IS_FULL = 0.95  # of a disk in use: from there on Ray writes no objects to it
_PATIENCE_S = 120.0
_TRIES = "2"  # a probe is to answer, not to wait until a store is up again
_PACKAGES = (
    *("ray", "torch", "transformers", "tokenizers", "deepspeed", "safetensors", "numpy", "pyarrow", "sentencex"),
    *("boto3", "pydantic"),
)
_GIB = 1 << 30


@dataclass(frozen=True)
class NodeReport:
    """What a node answered. problems: why it cannot do the work; notes: what is worth knowing."""

    name: str
    problems: list[str]
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    clock_s: float = 0.0
    uncertain_s: float = 0.0
    free_bytes: int = 0


def check_nodes(place: str, *, writes: bool = True) -> None:
    """Raise CcpError naming every node of the session that cannot work on a place, and why; say what is worth knowing.

    place: URI of an output or, where a job only reads it, of an artifact.
    """
    reports = ask_nodes(place, writes=writes)
    for report in reports:
        for note in report.notes:
            say(f"ccp-ray: {report.name}: {note}")
    unfit = [report for report in reports if report.problems]
    if unfit:
        told = "; ".join(f"{report.name}: {', '.join(report.problems)}" for report in unfit)
        raise CcpError(
            f"{len(unfit)} of {len(reports)} nodes cannot do this job, and nothing was started. {told}. "
            "Mend them or take them out of the cluster"
        )


def ask_nodes(place: str | None = None, *, writes: bool = True) -> list[NodeReport]:
    """Every living node's answer, in the order of their names; of a store too where a place is given.

    Needs a Ray session; leaves nothing behind.
    """
    with _beacon(place, writes) as beacon:
        answers = _ask(place, beacon, writes)
    here = _versions()
    return [_judge(name, answer, here) for name, answer in sorted(answers.items())]


def _ask(place: str | None, beacon: str | None, writes: bool) -> dict[str, dict[str, Any] | str]:
    """By node: its answer with the times between which it came, or why there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0, name="node check")(_answer)
    nodes, sent = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}, time.time()
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(number, soft=False)).remote(
            place, beacon, writes, node["ObjectStoreSocketName"]
        ): number
        for number, node in nodes.items()
    }
    found: dict[str, dict[str, Any] | str] = {}
    give_up = time.monotonic() + _PATIENCE_S
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=max(0.0, give_up - time.monotonic()))
        if not ready:
            break
        found[waiting.pop(ready[0])] = _fetched(ready[0], sent)
    for reference, number in waiting.items():
        ray.cancel(reference, force=True)
        found[number] = f"runs no task (waited {_PATIENCE_S:.0f} s); look at Ray's logs there"
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # one that left meanwhile is no node to mend
    return {_name(nodes[number]): answer for number, answer in found.items() if number in alive}


def _fetched(reference: Any, sent: float) -> dict[str, Any] | str:
    import ray

    try:
        return {**ray.get(reference), "sent": sent, "answered": time.time()}
    except ray.exceptions.RayError as error:
        reason = next((line.strip() for line in reversed(str(error).strip().splitlines()) if line.strip()), "")
        return f"cannot run a task of this program ({reason or type(error).__name__})"


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeID'][:8]} at {node['NodeManagerAddress']}"


def _answer(place: str | None, beacon: str | None, writes: bool, socket: str) -> dict[str, Any]:
    """Runs on the node."""
    clock = time.time()
    disk = shutil.disk_usage(next(folder for folder in Path(socket).parents if folder.is_dir()))
    problem, skew = _store(place, beacon, writes)
    return {
        "clock": clock,
        "versions": _versions(),
        "free": disk.free,
        "used": disk.used / max(1, disk.used + disk.free),  # of what this user may write
        "store": problem,
        "store_skew": skew,
    }


def _versions() -> dict[str, str]:
    """Of what results depend on, without local parts; "" for what is missing."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = _version(name)
    found["faiss"] = next((f"{name} {_version(name)}" for name in FAISS if _version(name)), "")
    return found | {"ccp-ray's code": _code()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _code() -> str:
    """A digest of the library as it is loaded here."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _store(place: str | None, beacon: str | None, writes: bool) -> tuple[str, float]:
    """What keeps this node from the store ("": nothing), and by how many seconds the store's clock is ahead."""
    if place is None:
        return "", 0.0
    if beacon is not None:
        return _shared_folder(beacon), 0.0
    store = open_store(place)
    if isinstance(store, LocalStore):
        return ("" if store.path.exists() else _unseen(store.path)), 0.0
    before = os.environ.get("AWS_MAX_ATTEMPTS")
    os.environ["AWS_MAX_ATTEMPTS"] = _TRIES
    try:
        theirs = store.clock()
        if writes:
            _leave_and_take_back(store)
        return "", 0.0 if theirs is None or abs(theirs - time.time()) < 1 else theirs - time.time()
    except (CcpError, FileNotFoundError) as error:
        return str(error), 0.0
    finally:
        if before is None:
            del os.environ["AWS_MAX_ATTEMPTS"]
        else:
            os.environ["AWS_MAX_ATTEMPTS"] = before


def _leave_and_take_back(store: Store) -> None:
    """Who may read but not write would fail at its first commit, after all the work on it."""
    key = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
    store.write(key, b"")
    store.delete(key)


def _shared_folder(beacon: str) -> str:
    folder = Path(beacon).parent
    if not Path(beacon).is_file():
        return _unseen(folder)
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"may not write to {folder}: check its owner and mode"


def _unseen(folder: Path) -> str:
    return f"does not see {folder} as this machine does: use s3://, or a folder that all nodes share"


@contextlib.contextmanager
def _beacon(place: str | None, writes: bool) -> Iterator[str | None]:
    """A file that every node must see, in a local place or the nearest folder above it; gone at the end."""
    store = None if place is None else open_store(place)
    if not isinstance(store, LocalStore) or not writes:
        yield None
        return
    nearest = LocalStore(next(path for path in (store.path, *store.path.parents) if path.exists()))
    key = f"{TEMPORARY}probe-{uuid.uuid4().hex}"
    nearest.write(key, b"")
    try:
        yield str(nearest.path / key)
    finally:
        nearest.delete(key)


def _judge(name: str, answer: dict[str, Any] | str, here: dict[str, str]) -> NodeReport:
    if isinstance(answer, str):
        return NodeReport(name, [answer])
    clock = skew(answer["sent"], answer["clock"], answer["answered"])
    problems, notes = _differences(answer["versions"], here), []
    if answer["store"]:
        problems.append(answer["store"])
    for whose, seconds in (("this machine's", clock), ("the store's", -answer["store_skew"])):
        told = f"its clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {whose}"
        if abs(seconds) > REFUSED_SKEW_S:
            problems.append(f"{told} (S3 takes 15 minutes): set it (NTP)")
        elif abs(seconds) > NOTED_SKEW_S:
            notes.append(f"{told}; set it (NTP)")
    if answer["free"] < _MIN_FREE:
        problems.append(
            f"only {answer['free'] / _GIB:.1f} GiB free for Ray's files: free some, or move them (--temp-dir)"
        )
    elif answer["used"] > _RAY_IS_FULL:
        notes.append(
            f"the disk of Ray's files is {100 * answer['used']:.0f} % full; from 95 % on Ray spills nothing to it"
        )
    uncertain = answer["answered"] - answer["sent"]
    return NodeReport(name, problems, notes, answer["versions"], clock, uncertain, answer["free"])


def _differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    differ = [f"{name} {there.get(name) or 'missing'} (here {version})" for name, version in here.items()
              if version and not _alike(there.get(name, ""), version)]  # fmt: skip
    return [f"other versions: {', '.join(differ)}; install the same on every node (constraints.txt)"] if differ else []


def _alike(there: str, here: str) -> bool:
    """Equal; or FAISS for CPUs and FAISS for GPUs, whose releases do not come together and read the same files."""
    builds = [version.partition(" ")[0] for version in (there, here)]
    return there == here or (builds[0] != builds[1] and set(builds) <= set(FAISS))


def skew(sent: float, clock: float, answered: float) -> float:
    """Seconds by which a clock that was read between two moments of ours is surely ahead (below zero: behind)."""
    return clock - answered if clock > answered else min(0.0, clock - sent)
