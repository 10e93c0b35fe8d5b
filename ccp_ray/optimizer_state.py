"""The training state of a DeepSpeed engine by parameter name, whatever the world size and ZeRO stage.

Saving is local: a rank writes the pieces it holds (`engine_state`), nothing is gathered, and each element is written
once, 12 bytes a parameter over all ranks. Loading fills whatever the new engine holds from the pieces that lie there.
Elements are copied, never computed: a round trip through any world size and stage gives the same bits. The weights that
the module computes with are the master weights cast, as after every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ccp_ray.engine_state import MASTER, MOMENTS, EngineState, Piece, engine_state
from ccp_ray.errors import DataError, UsageError

_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's fp16 loss scalers


def layout(engine: Any) -> str:
    """Ranks of two engines of the same model and layout hold, and write, the same pieces."""
    return f"zero{engine.zero_optimization_stage()}-{engine.dp_world_size}"


def own_file_suffices(engine: Any, saved: str) -> bool:
    """Whether a rank finds all it holds in its own file of a snapshot of layout `saved`: not where it wrote a share."""
    return layout(engine) == saved and engine.zero_optimization_stage() > 0


def snapshot(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """This rank's pieces as copies in CPU memory, by `name:start:key`, and what all ranks have alike, as plain JSON."""
    state = engine_state(engine)
    tensors = {}
    for held in state.pieces():
        piece = state.own(held)
        for key in (MASTER, *MOMENTS):
            values = state.read(piece, key)
            if values is not None and piece.size:
                tensors[f"{piece.name}:{piece.start}:{key}"] = values.to("cpu", torch.float32, copy=True)
    steps = [int(state.adam.state[master]["step"]) for master in state.masters() if state.adam.state.get(master)]
    return tensors, {
        "layout": layout(engine),
        "shapes": state.shapes(),
        "adam_step": max(steps, default=0),
        "loss_scale": _loss_scale(engine),
    }


def restore(engine: Any, facts: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Fill a fresh engine from `snapshot`s of another's ranks. Collective; `files` must cover what this rank holds.

    Raises UsageError where the snapshot is of another model, DataError where a file lacks a piece.
    """
    state = engine_state(engine)
    check_shapes(facts["shapes"], state.shapes())
    _make_moments(state, int(facts["adam_step"]))
    saved = SavedPieces(files)
    with torch.no_grad():
        for piece in state.pieces():
            for key in (MASTER, *MOMENTS):
                values = saved.read(piece, key)
                if values is not None:
                    state.write(piece, key, values)
        state.publish()
    for name in _loss_scale(engine).keys() & facts["loss_scale"].keys():
        setattr(_scaler(engine), name, facts["loss_scale"][name])


def check_shapes(saved: Mapping[str, list[int]], own: Mapping[str, list[int]]) -> None:
    """Raise UsageError naming the first parameter that differs."""
    different = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if different:
        name = different[0]
        there, here = (str(shapes[name]) if name in shapes else "not there" for shapes in (saved, own))
        raise UsageError(
            f"the checkpoint is of another encoder: {name} is {there} in it and {here} in this run "
            f"({len(different)} parameters differ); choose another --output"
        )


class SavedPieces:
    """The pieces in some ranks' files; tensors are read when they are asked for, and only the elements needed."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._found: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for path in files:
            handle: Any = safe_open(path, framework="pt")
            for stored in handle.keys():  # noqa: SIM118 - not a dict
                name, start, key = stored.rsplit(":", 2)
                count = handle.get_slice(stored).get_shape()[0]
                self._found.setdefault((name, key), []).append((int(start), count, handle, stored))

    def read(self, piece: Piece, key: str) -> torch.Tensor | None:
        """Elements [size] of the piece; None for moments that the files lack (saved before Adam's first step)."""
        parts = self._found.get((piece.name, key))
        if parts is None and key != MASTER:
            return None
        out = torch.empty(piece.size)
        filled = 0
        for start, count, handle, stored in parts or []:
            low, high = max(start, piece.start), min(start + count, piece.start + piece.size)
            if low < high:
                out[low - piece.start : high - piece.start] = handle.get_slice(stored)[low - start : high - start]
                filled += high - low
        if filled != piece.size:
            raise DataError(f"the checkpoint has {filled} of {piece.size} elements of {piece.name} ({key})")
        return out


def _make_moments(state: EngineState, step: int) -> None:
    """Give Adam the state that its first step would make."""
    torch_adam = isinstance(state.adam, torch.optim.Optimizer) and type(state.adam).__module__.startswith("torch.")
    for master in state.masters():
        moments = {key: torch.zeros_like(master, memory_format=torch.preserve_format) for key in MOMENTS}
        # torch keeps the step as a float tensor, DeepSpeed's CPU Adam as a number.
        state.adam.state[master] = {"step": torch.tensor(float(step)) if torch_adam else step, **moments}


def _loss_scale(engine: Any) -> dict[str, float]:
    """The state of fp16's dynamic loss scale; empty where there is none."""
    scaler = _scaler(engine)
    dynamic = getattr(scaler, "dynamic", False) or getattr(scaler, "dynamic_loss_scale", False)
    return {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)} if dynamic else {}


def _scaler(engine: Any) -> Any:
    """The object that holds the loss scale, if there is one."""
    optimizer = engine.optimizer
    return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
