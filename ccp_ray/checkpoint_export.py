"""An encoder of an earlier step: a kept checkpoint of a training run, as a plain Hugging Face folder.

For the curve of a benchmark over steps (`resources.checkpoint_keep_every` keeps what it needs), and for a run that was
stopped early. Step 0 is the encoder that training started from, for which nothing is kept. The fp32 master weights are
put together from the pieces that the ranks wrote, whatever their number and ZeRO stage; memory is one copy of them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from ccp_ray.artifact import Artifact, InputRef, Request, digest_json, open_output
from ccp_ray.engine_state import MASTER, Piece
from ccp_ray.errors import DataError, UsageError
from ccp_ray.kept_checkpoints import checkpoint_ledger, checkpoint_name, checkpoint_step
from ccp_ray.ledger import Entry, FileRecord, put_folder, verified_copy
from ccp_ray.optimizer_state import SavedPieces
from ccp_ray.storage import Store, open_store
from ccp_ray.training_run import Trainee, TrainingRun


def export_checkpoint(run: str, step: int, output: str) -> Artifact:
    """Write the encoder after `step` steps of a training run, finished or not. Returns the encoder artifact.

    Of a fine-tuning with two encoders it holds one in `question/` and one in `passage/`, as the run's own. Raises
    UsageError where `run` is no training run or keeps no checkpoint of that step, DamagedError for a file that is not
    what was recorded.
    """
    store = open_store(run)
    training = TrainingRun.open(store)
    entry = _entry(store, step) if step else None
    source = _start_reference(training) if entry is None else _reference(store, step, entry)
    target = open_output(output, Request(kind="encoder", config={"step": step}, inputs=[source]))
    if isinstance(target, Artifact):
        return target
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        files: list[FileRecord] = []
        for trainee in training.trainees(Path(scratch, "start")):
            if entry is not None:
                _fill(trainee, store, entry, Path(scratch, "pieces"))
            folder = Path(scratch, "encoder", trainee.folder)
            trainee.encoder.save(folder)
            files += put_folder(target.store, folder, trainee.folder)
        return target.finish(files, {"trained_steps": step})


def _reference(store: Store, step: int, entry: Entry) -> InputRef:
    content = digest_json({record.path: record.sha256 for record in entry.files})
    return InputRef(role="checkpoint", uri=store.uri(checkpoint_name(step)), fingerprint=content)


def _start_reference(training: TrainingRun) -> InputRef:
    return InputRef(role="training", uri=training.store.root, fingerprint=digest_json(training.request.identity()))


def _entry(store: Store, step: int) -> Entry:
    ledger = checkpoint_ledger(store)
    there = sorted(ledger.committed())
    if checkpoint_name(step) not in there:
        steps = ", ".join(str(checkpoint_step(name)) for name in there) or "none"
        raise UsageError(
            f"{store.root}: keeps no checkpoint of step {step}; there is {steps} "
            "(resources.checkpoint_keep_every keeps more)"
        )
    return ledger.read(checkpoint_name(step))


def _fill(trainee: Trainee, store: Store, entry: Entry, cache: Path) -> None:
    """Overwrite every trained parameter; what was never trained (an idle pooler) stays."""
    paths = [verified_copy(store, record, cache) for record in entry.files if "-rank-" in record.path]
    saved = SavedPieces(paths)
    progress = next(record for record in entry.files if record.path.endswith("progress.json"))
    shapes = json.loads(verified_copy(store, progress, cache).read_text())["engine"]["shapes"]
    own = dict(trainee.model.named_parameters())
    with torch.no_grad():
        for name in (name for name in shapes if name.startswith(trainee.prefix)):
            parameter = own[name.removeprefix(trainee.prefix)]
            values = saved.read(Piece(name, parameter, 0, parameter.numel()), MASTER)
            if values is None:
                raise DataError(f"{store.root}: the checkpoint has no weights of {name}")
            parameter.copy_(values.view_as(parameter))
