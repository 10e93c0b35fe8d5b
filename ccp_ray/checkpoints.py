"""Training checkpoints in the store: all ranks' state together, or not at all.

Each rank uploads the files that DeepSpeed wrote for it (weights, optimiser, step); rank 0 adds banks and running
statistics (safetensors) and the metrics so far. The ledger entry with every checksum is written last: without it the
checkpoint does not exist. DeepSpeed's files are its own pickled format; they are read back only by the run that wrote
them, after their checksums matched, and are no part of the artifact.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from ccp_ray.errors import CcpError, UsageError
from ccp_ray.ledger import Entry, FileRecord, Ledger, check_file, put_folder
from ccp_ray.progress import say
from ccp_ray.storage import open_store

_STATE, _ROWS = "state.safetensors", "metrics.jsonl"


class Restored(NamedTuple):
    """Where to go on: the step to do next, banks and statistics, metrics rows so far."""

    step: int
    state: dict[str, torch.Tensor]
    rows: list[dict[str, Any]]


class Checkpoints:
    """Checkpoints of one run. Every method is collective: all ranks call it."""

    def __init__(self, output: str, keep: int) -> None:
        self.store = open_store(output)
        self.ledger = Ledger(self.store, "_ledger/checkpoints")
        self.keep = keep

    def save(self, engine: Any, step: int, state: Mapping[str, torch.Tensor], rows: list[dict[str, Any]]) -> None:
        """Commit the state after `step` steps and drop all but the newest `keep`."""
        name = _name(step)
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            engine.save_checkpoint(scratch, tag="engine", save_latest=False)
            if dist.get_rank() == 0:
                save_file(
                    {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, f"{scratch}/{_STATE}"
                )
                Path(scratch, _ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
            own = put_folder(self.store, Path(scratch), f"_checkpoints/{name}/")
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, [record.model_dump() for record in own])
        if dist.get_rank() == 0:
            files = [FileRecord(**record) for records in gathered for record in records]
            self.ledger.commit(name, Entry(files=files, info={"step": step, "world_size": dist.get_world_size()}))
            self._prune()

    def restore(self, engine: Any) -> Restored | None:
        """Load the newest checkpoint whose files are all there and unaltered; None where there is none."""
        chosen: list[Any] = [self._newest_sound() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(chosen, src=0)
        if chosen[0] is None:
            return None
        entry = self.ledger.read(chosen[0])
        if entry.info["world_size"] != dist.get_world_size():
            raise UsageError(
                f"resources.workers: the checkpoint was written by {entry.info['world_size']} workers and this run has "
                f"{dist.get_world_size()}; run again with the same number"
            )
        prefix = f"_checkpoints/{chosen[0]}/"
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            for record in entry.files:
                self.store.download(record.path, Path(scratch, record.path.removeprefix(prefix)))
            loaded, _ = engine.load_checkpoint(scratch, tag="engine")
            if loaded is None:
                raise CcpError(f"{self.store.uri(prefix)}: DeepSpeed could not load this checkpoint")
            rows = [json.loads(line) for line in Path(scratch, _ROWS).read_text().splitlines()]
            return Restored(int(entry.info["step"]), load_file(f"{scratch}/{_STATE}"), rows)

    def _newest_sound(self) -> str | None:
        for name in sorted(self.ledger.committed(), reverse=True):
            problem = next(
                filter(None, (check_file(self.store, record) for record in self.ledger.read(name).files)), None
            )
            if problem is None:
                return name
            say(f"checkpoint {name} is damaged ({problem}); falling back to the one before")
            self.ledger.retract(name)  # else its entry would stand when this run commits that step again
        return None

    def _prune(self) -> None:
        for name in sorted(self.ledger.committed())[: -self.keep]:
            files = self.ledger.read(name).files
            self.ledger.retract(name)  # first: a checkpoint must not claim files that are going
            for record in files:
                self.store.delete(record.path)


def _name(step: int) -> str:
    return f"step-{step:09d}"
