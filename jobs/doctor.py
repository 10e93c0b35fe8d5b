"""ccp-ray doctor: what this machine, its packages, Ray and a store can do, and what to do where something is missing.

Each check is independent, takes seconds at most and leaves nothing behind. `ok` is True (fine), False (work that
needs it will fail; `advice` says what to do) or None (worth knowing: something optional is absent).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import typer
from packaging.requirements import Requirement

from ccp_ray.artifact import FAISS
from ccp_ray.errors import CcpError
from ccp_ray.node_probe import NodeReport, ask_nodes
from ccp_ray.session import cluster_cpus, ray_session
from ccp_ray.storage import LocalStore, Store, open_store
from jobs.command import Address, AsJson, main, print_json, reported

_GIB = 1 << 30
_CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
_MIN_MEMORY, _MIN_DISK = 4 * _GIB, 5 * _GIB
_MAX_SKEW_S = 60.0  # S3 refuses requests from 15 minutes on
_OURS = (
    "torch",
    "ray",
    "deepspeed",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "boto3",
    "pydantic",
)


class Check(NamedTuple):
    """One finding."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def doctor(store: str | None = None, address: str | None = None) -> list[Check]:
    """Check this machine, Ray (local, or the cluster at `address`) and, if given, the store at a URI."""
    checks = [*_machine(), *_torch(), _compiler(), _packages(_CONSTRAINTS), *_ray(address, store)]
    return checks + (_store(store) if store else [])


def render(checks: list[Check]) -> str:
    """The findings as text, one line each and its advice below."""
    marks = {True: "ok", False: "FAIL", None: "note"}
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{marks[check.ok]:<5}{check.name:<{width}}  {check.detail}")
        if check.advice and check.ok is not True:
            lines.append(f"{'':<{width + 7}}-> {check.advice}")
    return "\n".join(lines)


def doctor_command(
    store: Annotated[str | None, typer.Option(help="Also check this folder or s3:// URI.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Check machine, packages, Ray and a store; exit code 1 if something that is needed is missing."""
    with reported():
        checks = doctor(store, address)
    if as_json:
        print_json({"checks": [check._asdict() for check in checks]})
    else:
        print(render(checks))
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


doctor_command.__name__ = "doctor"


def _machine() -> Iterator[Check]:
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", supported, f"{platform.python_version()} ({sys.executable})", "use Python 3.10 to 3.13")
    memory = psutil.virtual_memory()
    detail = f"{len(os.sched_getaffinity(0))} CPUs, {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free"
    yield Check(
        "cpu, memory", memory.available >= _MIN_MEMORY, detail, "4 GiB of free memory are needed for quickstart"
    )
    for name, folder in (("disk here", Path.cwd()), ("disk /dev/shm", Path("/dev/shm"))):  # noqa: S108 - Ray's place
        if folder.is_dir():
            free = shutil.disk_usage(folder).free
            enough = free >= (_MIN_DISK if name == "disk here" else _GIB // 2)
            yield Check(name, enough, f"{free / _GIB:.1f} GiB free", "free some space, or work in another folder")


def _torch() -> Iterator[Check]:
    try:
        import torch
    except ImportError as error:
        yield Check("torch", False, f"cannot be imported: {error}", "make setup")
        return
    from ccp_ray.hardware import native_bf16

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check("torch", True, f"{torch.__version__} ({build}), {torch.get_num_threads()} threads")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_properties(i) for i in range(count)]
    if names:
        yield Check("gpu", True, ", ".join(f"{gpu.name} ({gpu.total_memory / _GIB:.0f} GiB)" for gpu in names))
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        advice = "install a torch with CUDA that fits the driver (make clean-venv setup)"
        yield Check("gpu", False, "an NVIDIA driver is here, but torch cannot use a GPU", advice)
    else:
        yield Check("gpu", None, "none; everything runs on the CPU")
    detail = "native" if native_bf16() else "emulated, slower than fp32; precision auto chooses fp32"
    yield Check("bf16", native_bf16() or None, detail)


def _compiler() -> Check:
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    detail = found or "none: DeepSpeed's optional communication extension is not built"
    return Check(
        "c++ compiler", True if found else None, detail, "optional; it makes several CPU workers a little faster"
    )


def _packages(constraints: Path) -> Check:
    ours = (*_OURS, next(filter(_version, FAISS), FAISS[0]))
    if not constraints.is_file():
        versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in ours)
        return Check("packages", None, f"no constraints file beside this installation; {versions}")
    wrong, pinned = [], 0
    for line in constraints.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        pin = Requirement(text)
        found = _version(pin.name) if pin.marker is None or pin.marker.evaluate() else None
        pinned += found is not None
        if found is not None and not pin.specifier.contains(found, prereleases=True):
            wrong.append(f"{pin.name} {found} (pinned {pin.specifier})")
    missing = [name for name in ours if _version(name) is None]
    wrong += [f"{name} missing" for name in missing]
    detail = f"{pinned} pinned packages installed" + (f"; {len(wrong)} differ: {', '.join(wrong[:5])}" if wrong else "")
    return Check("packages", not missing and (True if not wrong else None), detail, "make clean-venv setup")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _ray(address: str | None, store: str | None = None) -> list[Check]:
    """Ray as a whole and, on a cluster, each of its nodes."""
    where = f"cluster at {address}" if address else "local Ray"
    start = time.monotonic()
    try:
        with ray_session(address):
            import ray

            answer = ray.get(ray.remote(platform.node).remote(), timeout=60)
            resources = f"{cluster_cpus()} CPUs, {ray.cluster_resources().get('GPU', 0):.0f} GPUs"
            seconds = time.monotonic() - start
            nodes = [_node(report) for report in ask_nodes(store)] if address else []
    except CcpError as error:
        return [Check("ray", False, str(error), "check the address; a cluster with a token needs RAY_AUTH_MODE=token")]
    except Exception as error:  # Ray's own errors have no common base class
        advice = "look at Ray's log files in /tmp/ray/session_latest/logs"
        return [Check("ray", False, f"{where}: {str(error).strip().splitlines()[:1]}", advice)]
    return [Check("ray", True, f"{where}: {resources}, a task ran on {answer} after {seconds:.1f} s"), *nodes]


def _node(report: NodeReport) -> Check:
    told = [*report.problems, *report.notes]
    if report.versions:
        versions = ", ".join(f"{name} {report.versions[name] or 'missing'}" for name in ("Python", "ray", "torch"))
        clock = f"clock within {abs(report.clock_s) + report.uncertain_s:.1f} s of ours"
        told = [versions, clock, f"{report.free_bytes / _GIB:.1f} GiB free", *told]
    fit = False if report.problems else None if report.notes else True
    return Check(report.name, fit, ", ".join(told), "jobs with --address start when every node is fit")


def _store(uri: str) -> list[Check]:
    try:
        store = _nearest(open_store(uri))
    except CcpError as error:
        return [Check("store", False, str(error))]
    key = f".ccp-doctor-{uuid.uuid4().hex}"
    data = os.urandom(1 << 20)
    tests: list[tuple[str, Callable[[], Check]]] = [
        ("store write", lambda: _writes(store, key, data)),
        ("store read", lambda: _reads(store, key, data)),
        ("store races", lambda: _races(store)),
        ("store clock", lambda: _clock(store, key)),
        ("store delete", lambda: _deletes(store, key)),
    ]
    checks = []
    for name, test in tests:
        try:
            checks.append(test())
        except (CcpError, FileNotFoundError) as error:
            checks.append(Check(name, False, str(error)))
        if name == "store write" and not checks[-1].ok:
            break  # the others would only repeat its reason
    return checks


def _nearest(store: Store) -> Store:
    """Of a local path that is not there yet, the folder that it would be made in: nothing may be left behind."""
    if isinstance(store, LocalStore):
        return LocalStore(next(path for path in (store.path, *store.path.parents) if path.exists()))
    return store


def _writes(store: Store, key: str, data: bytes) -> Check:
    start = time.monotonic()
    store.write(key, data)
    return Check("store write", True, f"{store.root}: 1 MiB in {1000 * (time.monotonic() - start):.0f} ms")


def _reads(store: Store, key: str, data: bytes) -> Check:
    same = store.read(key) == data and store.read(key, 1000, 10) == data[1000:1010]
    listed = key in [info.key for info in store.list(key)]
    detail = "whole, in ranges and listed" if same and listed else "what was read or listed is not what was written"
    return Check("store read", same and listed, detail, "do not use this store")


def _races(store: Store) -> Check:
    if store.conditional_writes():
        return Check("store races", True, "conditional PUT is honoured: of two writers one wins")
    return Check("store races", None, "conditional PUT is ignored; keys with a single writer are used instead")


def _clock(store: Store, key: str) -> Check:
    skew = _skew_s(store, key)
    if skew is None:
        return Check("store clock", None, "the store does not tell its time")
    detail = f"differs from this machine's by {skew:.1f} s"
    return Check(
        "store clock", skew <= _MAX_SKEW_S, detail, "set the clocks (NTP); S3 refuses requests that are too old"
    )


def _skew_s(store: Store, key: str) -> float | None:
    """Seconds between the store's clock and ours; S3's has a resolution of one second."""
    if isinstance(store, LocalStore):
        fresh = f"{key}-clock"
        store.write(fresh, b"")
        try:
            return abs(time.time() - (store.path / fresh).stat().st_mtime)
        finally:
            store.delete(fresh)
    theirs = store.clock()
    return None if theirs is None else abs(time.time() - theirs)


def _deletes(store: Store, key: str) -> Check:
    store.delete(key)
    gone = store.size(key) is None
    return Check("store delete", gone, "nothing is left" if gone else f"{store.uri(key)} is still there", "delete it")


if __name__ == "__main__":
    main(doctor_command)
