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

from ccp_ray.artifact import JOB, Artifact, InputRef, Request, digest_json, open_output
from ccp_ray.checkpoints import checkpoint_ledger, checkpoint_name
from ccp_ray.config import build_config
from ccp_ray.corpus import Corpus
from ccp_ray.encoder import Encoder, load_trainable
from ccp_ray.engine_state import MASTER, Piece
from ccp_ray.errors import DataError, UsageError
from ccp_ray.ledger import Entry, put_folder, verified_copy
from ccp_ray.optimizer_state import SavedPieces
from ccp_ray.pretrain_config import PretrainConfig
from ccp_ray.storage import Store, open_store

_MODEL = "model."  # of the training module; the rest is the projection head, which is thrown away


def export_checkpoint(run: str, step: int, output: str) -> Artifact:
    """Write the encoder after `step` steps of a training run, finished or not. Returns the encoder artifact.

    Raises UsageError where `run` is no training run or keeps no checkpoint of that step, DamagedError for a file that
    is not what was recorded.
    """
    store = open_store(run)
    request = training_request(store)
    entry = _entry(store, step) if step else None
    source = _start_reference(store, request) if entry is None else _reference(store, step, entry)
    target = open_output(output, Request(kind="encoder", config={"step": step}, inputs=[source]))
    if isinstance(target, Artifact):
        return target
    with tempfile.TemporaryDirectory(prefix="ccp-ray-") as scratch:
        encoder = _skeleton(request, Path(scratch, "tokenizer"))
        if entry is not None:
            _fill(encoder, store, entry, Path(scratch, "pieces"))
        encoder.model = encoder.model.base_model
        encoder.save(Path(scratch, "encoder"))
        return target.finish(put_folder(target.store, Path(scratch, "encoder")), {"trained_steps": step})


def training_request(store: Store) -> Request:
    """What the training run in this store was asked. Raises UsageError where there is none, DataError."""
    try:
        request = Request.model_validate_json(store.read(JOB))
    except FileNotFoundError:
        raise UsageError(f"{store.root}: holds no training run") from None
    except ValueError:
        raise DataError(f"{store.uri(JOB)}: not written by this program, or damaged") from None
    if request.kind != "encoder" or "steps" not in request.config:
        raise UsageError(f"{store.root}: holds {request.kind} work, expected a training run of `pretrain`")
    return request


def _reference(store: Store, step: int, entry: Entry) -> InputRef:
    content = digest_json({record.path: record.sha256 for record in entry.files})
    return InputRef(role="checkpoint", uri=store.uri(checkpoint_name(step)), fingerprint=content)


def _start_reference(store: Store, request: Request) -> InputRef:
    return InputRef(role="training", uri=store.root, fingerprint=digest_json(request.identity()))


def _entry(store: Store, step: int) -> Entry:
    ledger = checkpoint_ledger(store)
    there = sorted(ledger.committed())
    if checkpoint_name(step) not in there:
        steps = ", ".join(str(int(name.rpartition("-")[2])) for name in there) or "none"
        raise UsageError(
            f"{store.root}: keeps no checkpoint of step {step}; there is {steps} "
            "(resources.checkpoint_keep_every keeps more)"
        )
    return ledger.read(checkpoint_name(step))


def _skeleton(request: Request, scratch: Path) -> Encoder:
    """The encoder that the run started from; its weights are overwritten."""
    config = build_config(PretrainConfig, request.config)
    inputs = {ref.role: ref.uri for ref in request.inputs}
    tokenizer = Corpus.open(inputs["corpus"]).tokenizer_folder(scratch)
    return load_trainable(inputs.get("encoder"), config.encoder, tokenizer, config.mlm.weight > 0, config.seed)


def _fill(encoder: Encoder, store: Store, entry: Entry, cache: Path) -> None:
    """Overwrite every trained parameter; what was never trained (an idle pooler) stays."""
    paths = [verified_copy(store, record, cache) for record in entry.files if "-rank-" in record.path]
    saved = SavedPieces(paths)
    progress = next(record for record in entry.files if record.path.endswith("progress.json"))
    shapes = json.loads(verified_copy(store, progress, cache).read_text())["engine"]["shapes"]
    own = dict(encoder.model.named_parameters())
    with torch.no_grad():
        for name in (name for name in shapes if name.startswith(_MODEL)):
            parameter = own[name.removeprefix(_MODEL)]
            values = saved.read(Piece(name, parameter, 0, parameter.numel()), MASTER)
            if values is None:
                raise DataError(f"{store.root}: the checkpoint has no weights of {name}")
            parameter.copy_(values.view_as(parameter))
