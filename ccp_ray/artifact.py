"""Artifacts: a folder in a store and the `artifact.json` that makes it one.

    _job.json        what was asked for (kind, configuration, inputs): written first
    _plan/*.json     the pieces to commit, with their rows: what `status` measures progress by
    _ledger/*.json   the pieces that are committed
    _stop            only while a refused run ends: pieces not yet begun are left alone
    …                the data
    _run.json        times, versions and speeds of the run that finished it
    artifact.json    the manifest with every file's checksum: written last

The manifest holds nothing but what follows from the request and the content, so an interrupted run, an undisturbed one
and two runs that shared the work write the same bytes. A folder without `artifact.json` is unfinished work; the same
request continues it, another is refused with a field-by-field diff. `fingerprint` covers kind, configuration, the
inputs' fingerprints and every file's content, but not times, versions, places or resources.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import Field

from ccp_ray.config import StrictModel
from ccp_ray.errors import DataError, DriftError, UsageError
from ccp_ray.faults import reach
from ccp_ray.ledger import FileRecord, Ledger, check_file
from ccp_ray.progress import say
from ccp_ray.storage import Store, open_store

MANIFEST, JOB, RUN, _STOP = "artifact.json", "_job.json", "_run.json", "_stop"
_told: set[str] = set()  # buckets that ignore conditional PUT
FAISS = ("faiss-cpu", "faiss-gpu-cu12")  # one of them: both own the folder `faiss`
_PACKAGES = ("ccp-ray", "ray", "torch", "transformers", "tokenizers", "deepspeed", "numpy", "pyarrow", *FAISS)


class InputRef(StrictModel):
    """An input as it was when it was read."""

    role: str
    uri: str
    fingerprint: str


class Request(StrictModel):
    """What a job was asked to make. `config` leaves out resources."""

    kind: str
    config: dict[str, Any]
    inputs: list[InputRef] = Field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        """The part that must not change between runs; the places of inputs may."""
        return {"kind": self.kind, "config": self.config, "inputs": {i.role: i.fingerprint for i in self.inputs}}


class Run(StrictModel):
    """What differs between two runs of the same work: times and speeds, versions and the machine."""

    measured: dict[str, Any] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)


class Artifact(Request):
    """A finished result. `summary` follows from the content; `run` (times, versions) does not."""

    format: int = 2
    fingerprint: str
    files: list[FileRecord]
    summary: dict[str, Any] = Field(default_factory=dict)
    run: Run = Field(default=Run(), exclude=True)
    uri: str = Field(default="", exclude=True)

    @property
    def measured(self) -> dict[str, Any]:
        """Times and speeds of the run that finished it."""
        return self.run.measured

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions and machine of the run that finished it."""
        return self.run.provenance

    @property
    def store(self) -> Store:
        return open_store(self.uri)

    def read(self, key: str) -> bytes:
        """One file, checked against its recorded checksum. Raises DataError naming it."""
        record = next((record for record in self.files if record.path == key), None)
        where = self.store.uri(key)
        if record is None:
            raise DataError(f"{where}: not among the artifact's files; make the {self.kind} again")
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            raise DataError(f"{where}: missing; copy the {self.kind} again, or make it again") from None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise DataError(f"{where}: checksum does not match; copy the {self.kind} again, or make it again")
        return data

    def ref(self, role: str) -> InputRef:
        """This artifact as another's input."""
        return InputRef(role=role, uri=self.uri, fingerprint=self.fingerprint)

    def input(self, role: str) -> InputRef:
        return next(ref for ref in self.inputs if ref.role == role)


class Output:
    """An unfinished artifact that this run may write to."""

    def __init__(self, store: Store, request: Request, fresh: bool) -> None:
        self.store, self.request, self.fresh = store, request, fresh
        self.uri = store.root
        self.ledger = Ledger(store)

    def finish(
        self, files: Sequence[FileRecord], summary: Mapping[str, Any], measured: Mapping[str, Any] | None = None
    ) -> Artifact:
        """Write the manifest: from now on the artifact exists."""
        run = Run(measured=dict(measured or {}), provenance=_provenance())
        ordered = sorted(files, key=lambda record: record.path)
        hashes = {record.path: record.sha256 for record in ordered if not record.measured}
        content = self.request.identity() | {"files": hashes}
        artifact = Artifact(
            kind=self.request.kind,
            config=self.request.config,
            inputs=self.request.inputs,
            fingerprint=digest_json(content),
            files=ordered,
            summary=dict(summary),
            run=run,
            uri=self.uri,
        )
        self.store.write(RUN, run.model_dump_json(indent=1).encode())
        reach("artifact.unfinished")
        self.store.write(MANIFEST, artifact.model_dump_json(indent=1).encode())
        return artifact

    @contextlib.contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Abandons the output where the input or the configuration turns out to be unusable."""
        try:
            yield
        except (DataError, UsageError):
            self.abandon()
            raise

    def stop(self) -> None:
        """Tell the tasks of this output to begin no other piece."""
        self.store.write(_STOP, b"")

    def unstop(self) -> None:
        """Let pieces begin again, when none is under way."""
        self.store.delete(_STOP)

    def abandon(self) -> None:
        """Leave the store as it was, if this run started the output: for input that can never succeed."""
        if self.fresh:
            for info in list(self.store.list()):
                if info.key != JOB:
                    self.store.delete(info.key)
            self.store.delete(JOB)  # last: killed before this, the rest is still known as this job's


def open_output(uri: str, request: Request) -> Output | Artifact:
    """Start or continue an output; the finished artifact if it is already done.

    Raises DriftError with a field diff where the folder holds another request's work, UsageError where it
    holds files that no job wrote.
    """
    store = open_store(uri)
    finished = find_artifact(uri)
    if finished is not None:
        _refuse_drift(uri, finished, request, "holds another artifact")
        return finished
    fresh = store.size(JOB) is None
    if fresh:
        stranger = next(iter(store.list()), None)
        if stranger is not None and stranger.key != JOB:
            raise UsageError(f"{uri}: the output folder holds other files ({stranger.key}); choose an empty --output")
        fresh = store.write_if_absent(JOB, request.model_dump_json(indent=1).encode())
    if not fresh:
        try:
            started = Request.model_validate_json(store.read(JOB))
        except ValueError:
            raise DataError(f"{store.uri(JOB)}: not written by this program, or damaged; remove the folder") from None
        _refuse_drift(uri, started, request, "holds another unfinished job")
    _tell_races(store)
    output = Output(store, request, fresh)
    output.unstop()  # a run may have been killed while it ended
    return output


def _tell_races(store: Store) -> None:
    """Say once a bucket and process that of two writers of an entry the last wins."""
    bucket = "/".join(store.root.split("/")[:3])
    if bucket not in _told and not store.conditional_writes():
        _told.add(bucket)
        say(
            f"{bucket}: the store ignores conditional PUT; of two jobs that commit one piece at the same time the last "
            "one's entry stands, and all stays whole"
        )


def stopped(store: Store) -> bool:
    """Whether the run that writes to this store begins no other piece."""
    return store.size(_STOP) is not None


def find_artifact(uri: str) -> Artifact | None:
    """The finished artifact at a URI, or None. Raises DataError if its manifest is damaged."""
    store = open_store(uri)
    try:
        raw = store.read(MANIFEST)
    except FileNotFoundError:
        return None
    try:
        artifact = Artifact.model_validate_json(raw)
    except ValueError:
        raise DataError(f"{store.uri(MANIFEST)}: not a manifest of this program, or damaged") from None
    return artifact.model_copy(update={"uri": store.root, "run": _read_run(store)})


def _read_run(store: Store) -> Run:
    """What the run left of itself; empty where someone copied the artifact without it."""
    try:
        return Run.model_validate_json(store.read(RUN))
    except FileNotFoundError:
        return Run()
    except ValueError:
        raise DataError(f"{store.uri(RUN)}: not written by this program, or damaged; delete this object") from None


def open_artifact(uri: str, *kinds: str) -> Artifact:
    """A finished artifact of one of these kinds. Raises UsageError that says what is there instead."""
    artifact = find_artifact(uri)
    if artifact is None:
        state = "is unfinished; run its job again" if open_store(uri).size(JOB) is not None else "holds no artifact"
        raise UsageError(f"{uri}: {state} (expected a finished {' or '.join(kinds) or 'artifact'})")
    if kinds and artifact.kind not in kinds:
        raise UsageError(f"{uri}: holds a {artifact.kind} artifact, expected {' or '.join(kinds)}")
    return artifact


def verify_artifact(artifact: Artifact) -> list[str]:
    """Re-hash every file, 8 at a time. Returns what is wrong, one line each; empty means all is well."""
    store = artifact.store
    with ThreadPoolExecutor(8) as pool:
        problems = pool.map(lambda record: check_file(store, record), artifact.files)
        return [problem for problem in problems if problem]


def digest_json(value: Any) -> str:
    """sha256 of canonical JSON (sorted keys, no blanks)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def field_diff(old: Any, new: Any, path: str = "") -> list[str]:
    """The differing leaves of two JSON values, as `a.b: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in field_diff(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _refuse_drift(uri: str, old: Request, new: Request, what: str) -> None:
    lines = field_diff(old.identity(), new.identity())
    if lines:
        raise DriftError(
            f"{uri}: the output {what}; changed: {'; '.join(lines)}. Choose another --output, or undo the change"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:24]}…{text[-8:]}"


def _provenance() -> dict[str, Any]:
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"versions": versions, "platform": platform.platform(), "created": created}
