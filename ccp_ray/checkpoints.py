"""Training checkpoints in the store: all ranks' state together, or not at all.

    _checkpoints/step-000000500/zero1-2-rank-0.safetensors   this rank's pieces of weights and optimiser
    _checkpoints/step-000000500/zero1-2-state.safetensors    banks, running statistics, momentum keys (rank 0)
    _checkpoints/step-000000500/zero1-2-progress.json        metrics rows, shapes, loss scale (rank 0)
    _ledger/checkpoints/step-000000500.json                  every checksum: written last, the commit

A save copies the state to CPU memory and returns; a thread writes and uploads files while training goes on. When all
ranks' uploads are through (`uploading` is told with the step's metrics, so all ranks know at the same step), `settle`
gathers their records and rank 0 commits. At most one save is in flight: the next one settles it first. No pickle.

At the same world size and ZeRO stage (1 to 3) a rank reads its own file back; otherwise all, and takes what it holds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from ccp_ray import optimizer_state
from ccp_ray.collectives import gather_objects, on_first
from ccp_ray.errors import CcpError, DamagedError, StoreError, UsageError, carry, raise_carried
from ccp_ray.faults import reach
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_name, checkpoint_step
from ccp_ray.ledger import Entry, FileRecord, sound_copy
from ccp_ray.process_metrics import observe_lag
from ccp_ray.progress import say
from ccp_ray.storage import Store, open_store
from ccp_ray.upload import BackgroundUpload, Content

_FOLDER = "_checkpoints"
_STATE, _PROGRESS = "state.safetensors", "progress.json"


class Restored(NamedTuple):
    """Where to go on: the step to do next, the `state` and the `progress` that were saved."""

    step: int
    state: dict[str, torch.Tensor]
    progress: dict[str, Any]


class Checkpoints:
    """Checkpoints of one run. Methods marked collective must be called by all ranks at the same step."""

    def __init__(
        self, output: str, keep: int, keep_every: int | None = None, tell: Callable[[str], None] = say
    ) -> None:
        """tell: a line to a person (rank 0)."""
        self.store: Store = open_store(output)
        self.ledger = checkpoint_ledger(self.store)
        self.keep, self.keep_every, self.tell = keep, keep_every, tell
        self.kept_besides: set[int] = set()  # steps that stay whatever `keep` says; counts on rank 0, at a commit
        self._upload = BackgroundUpload(self.store)
        self._saving: tuple[int, str] | None = None  # step and layout of the save in flight: the same on all ranks
        self._last: int | None = None
        self._copied = 0.0
        self.commit_lag_s: float | None = None  # of the last commit, from the copy of its state

    def save(self, engine: Any, step: int, state: Mapping[str, torch.Tensor], progress: Mapping[str, Any]) -> None:
        """Copy the engine's state after `step` steps and begin the upload. Collective; first settles the save before.

        state: on rank 0, tensors on the CPU that nobody changes any more. Raises StoreError on all ranks if the save
        before failed on any.
        """
        self.settle()
        if step == self._last:
            return
        pieces, facts = optimizer_state.snapshot(engine)
        own = f"{facts['layout']}-"
        files: dict[str, Content] = {f"{own}rank-{dist.get_rank()}.safetensors": pieces}
        if dist.get_rank() == 0:
            files[own + _STATE] = state
            files[own + _PROGRESS] = json.dumps({"engine": facts, "run": progress}).encode()
        self._upload.start(f"{_FOLDER}/{checkpoint_name(step)}/", files)
        self._saving, self._last, self._copied = (step, facts["layout"]), step, time.monotonic()

    @property
    def saving(self) -> bool:
        """Whether a save waits to be settled; the same on all ranks."""
        return self._saving is not None

    @property
    def uploading(self) -> bool:
        """Whether this rank's upload is still under way."""
        return self._upload.running

    def settle(self) -> None:
        """Wait for the save in flight, if any, and commit it. Collective. Raises StoreError on all ranks."""
        if self._saving is None:
            return
        (step, layout), self._saving = self._saving, None
        gathered = gather_objects(self._own_result())
        for rank, (_, problem) in enumerate(gathered):
            if problem:
                raise StoreError(f"checkpoint of step {step}: upload from worker {rank} failed: {problem}")
        files = [FileRecord(**record) for records, _ in gathered for record in records]
        on_first(lambda: self._commit(checkpoint_name(step), Entry(files=files, info={"step": step, "layout": layout})))
        self.commit_lag_s = time.monotonic() - self._copied
        if dist.get_rank() == 0:
            observe_lag(self.store.root, "checkpoints", self.commit_lag_s)

    def restore(self, engine: Any) -> Restored | None:
        """Load the newest checkpoint whose files are all there and unaltered; None where there is none. Collective.

        Says which it passes over. Raises UsageError where it is of another encoder, DamagedError where none is sound.
        """
        damaged: list[str] = []
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            for name in on_first(lambda: sorted(self.ledger.committed(), reverse=True)):
                files, problem = self._fetch(name, engine, Path(scratch))
                if not problem:
                    restored = self._load(engine, name, files)
                    on_first(lambda: self._clean(damaged))
                    return restored
                damaged.append(name)
                if dist.get_rank() == 0:
                    self.tell(f"checkpoint {name} is damaged ({problem}); falling back to the one before")
        if damaged:
            raise DamagedError(
                f"{self.store.uri(_FOLDER)}: none of {len(damaged)} checkpoints is sound; bring their files back, or "
                f"delete _ledger/checkpoints beside this folder to train from the beginning"
            )
        on_first(lambda: self._clean([]))
        return None

    def restore_step(self, engine: Any, step: int) -> None:
        """Load the weights of one checkpoint. Collective. Raises DamagedError where it is not there or not sound."""
        self.settle()
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            files, problem = self._fetch(checkpoint_name(step), engine, Path(scratch))
            if problem:
                raise DamagedError(f"the checkpoint of step {step}: {problem}")
            self._load(engine, checkpoint_name(step), files)

    def _fetch(self, name: str, engine: Any, scratch: Path) -> tuple[dict[str, Path], str]:
        """This rank's files by name, each hashed; and the first problem that any rank found, or ""."""
        files: dict[str, Path] = {}
        problem = failure = ""
        try:
            entry = self.ledger.read(name)
            for short, record in self._needed(entry, engine).items():
                files[short] = sound_copy(self.store, record, scratch)
        except DamagedError as error:
            problem = str(error)
        except CcpError as error:
            failure = carry(error)
        gathered = gather_objects((problem, failure))
        for _, text in gathered:
            raise_carried(text)
        return files, next((text for text, _ in gathered if text), "")

    def _needed(self, entry: Entry, engine: Any) -> dict[str, FileRecord]:
        """The files that this rank reads, by their names without the layout."""
        layout = entry.info["layout"]
        named = {record.path.rpartition("/")[2].removeprefix(f"{layout}-"): record for record in entry.files}
        if not optimizer_state.own_file_suffices(engine, layout):
            return named
        own = f"rank-{dist.get_rank()}.safetensors"
        return {name: record for name, record in named.items() if name == own or not name.startswith("rank-")}

    def _load(self, engine: Any, name: str, files: Mapping[str, Path]) -> Restored:
        progress = json.loads(files[_PROGRESS].read_text())
        pieces = [path for short, path in sorted(files.items()) if short.startswith("rank-")]
        try:
            optimizer_state.restore(engine, progress["engine"], pieces)
        except UsageError as error:
            raise UsageError(f"{self.store.uri(f'{_FOLDER}/{name}')}: {error}") from None
        self._last = checkpoint_step(name)
        return Restored(self._last, load_file(files[_STATE]), progress["run"])

    def _clean(self, damaged: Sequence[str]) -> None:
        """Delete what saves that were cut off left, and damaged checkpoints: their steps are to be committed again."""
        for name in damaged:
            self.ledger.retract(name)
        committed = {record.path for entry in self.ledger.entries().values() for record in entry.files}
        for info in list(self.store.list(f"{_FOLDER}/")):
            if info.key not in committed:
                self.store.delete(info.key)

    def _own_result(self) -> tuple[list[dict[str, Any]], str]:
        try:
            return [record.model_dump() for record in self._upload.result()], ""
        except Exception as error:  # any error in the thread must reach all ranks, which wait for this one
            return [], f"{type(error).__name__}: {error}"

    def _commit(self, name: str, entry: Entry) -> None:
        """Make the checkpoint exist, and drop those that are not to be kept."""
        reach("checkpoint.written")
        self.ledger.commit(name, entry)
        reach("checkpoint.committed")
        steps = {checkpoint_step(name): name for name in self.ledger.committed()}
        for step in steps.keys() - kept(sorted(steps), self.keep, self.keep_every) - self.kept_besides:
            files = self.ledger.read(steps[step]).files
            self.ledger.retract(steps[step])  # first: a checkpoint must not claim files that are going
            for record in files:
                self.store.delete(record.path)


def kept(steps: Sequence[int], last: int, every: int | None) -> set[int]:
    """Of checkpoints at ascending steps, those that stay: the last ones and, if asked, multiples of `every`."""
    return {*steps[-last:], *(step for step in steps if every and step % every == 0)}
