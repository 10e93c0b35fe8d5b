"""Uploads beside the training: one at a time, in a thread; errors come back where the result is asked for.

The thread writes files of tensors that were copied before, so training may change its own meanwhile. Hashing, file and
socket calls release Python's lock; what is left in a step's way is the copy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file

from ccp_ray.ledger import FileRecord, put_file
from ccp_ray.storage import Store

Content = Mapping[str, torch.Tensor] | bytes


class BackgroundUpload:
    """Writes files to a store under a prefix, by name: tensors as safetensors, bytes as they are."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._running: Future[list[FileRecord]] | None = None

    def start(self, prefix: str, files: Mapping[str, Content]) -> None:
        """Begin; the caller has taken the result of the upload before."""
        if self._running is not None:
            raise RuntimeError("an upload is in flight; take its result first")
        self._running = self._pool.submit(self._upload, prefix, files)

    @property
    def running(self) -> bool:
        """Whether the upload has work left; False once its result or error is there."""
        return self._running is not None and not self._running.done()

    def result(self) -> list[FileRecord]:
        """Wait for the upload. Raises what it raised."""
        if self._running is None:
            return []
        running, self._running = self._running, None
        return running.result()

    def _upload(self, prefix: str, files: Mapping[str, Content]) -> list[FileRecord]:
        records = []
        with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
            for name, content in files.items():
                path = Path(scratch, name)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    save_file(dict(content), path)
                records.append(put_file(self.store, f"{prefix}{name}", path))
                path.unlink()
        return records
