"""The training state of a DeepSpeed engine by parameter name, whatever the world size and ZeRO stage.

Each rank holds pieces of the fp32 master weights and of Adam's two moments: under ZeRO 1 to 3 its partition, under
ZeRO 0 all of them. A piece is named by its parameter and the first element it has of the flattened parameter. So saving
is local (no gathering; each element is written once, 12 bytes a parameter over all ranks), and loading fills whatever
the new engine holds from the pieces that lie there. Elements are copied, never computed: a round trip through any world
size and stage gives the same bits. The weights that the module computes with are the master weights cast, as after
every step.

DeepSpeed's public `safe_get_full_*` helpers were not taken: they all-reduce each whole parameter three times, lack
ZeRO 0, and `safe_set_full_*` fails under ZeRO 3 where the world size does not divide a parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import safe_open

from ccp_ray.errors import DataError, UsageError

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's fp16 loss scalers


class Piece(NamedTuple):
    """Elements `start` to `start + size` of a flattened parameter."""

    name: str
    parameter: torch.nn.Parameter
    start: int
    size: int


class EngineState(ABC):
    """How one kind of DeepSpeed optimiser holds its state. `key` is MASTER or one of MOMENTS."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.wrapper = engine, engine.optimizer
        self.adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.engine.module.named_parameters() if p.requires_grad)

    def shapes(self) -> dict[str, list[int]]:
        return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in self.parameters()}

    def masters(self) -> list[torch.Tensor]:
        """The tensors that Adam steps, by which its state is kept."""
        return [tensor for group in self.adam.param_groups for tensor in group["params"]]

    def own(self, piece: Piece) -> Piece:
        """The part of a piece that this rank writes."""
        return piece

    @abstractmethod
    def pieces(self) -> Iterator[Piece]:
        """What this rank holds."""

    @abstractmethod
    def read(self, piece: Piece, key: str) -> torch.Tensor | None:
        """The elements [size], or None before Adam's first step."""

    @abstractmethod
    def write(self, piece: Piece, key: str, values: torch.Tensor) -> None:
        """Set the elements [size]."""

    @abstractmethod
    def publish(self) -> None:
        """Bring the module's weights up to the master weights. Collective."""


class _Replicated(EngineState):
    """ZeRO 0: every rank holds everything, and writes an equal share of each parameter."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        wrapped = self.adam is not self.wrapper  # in bf16 and fp16 a wrapper keeps fp32 copies
        low = [p for group in self.wrapper.fp16_groups for p in group] if wrapped else self.masters()
        self.master = {id(p): master for p, master in zip(low, self.masters(), strict=True)}

    def pieces(self) -> Iterator[Piece]:
        return (Piece(name, p, 0, p.numel()) for name, p in self.parameters())

    def own(self, piece: Piece) -> Piece:
        share = -(-piece.size // self.world)
        start = min(self.rank * share, piece.size)
        return piece._replace(start=start, size=min(share, piece.size - start))

    def read(self, piece: Piece, key: str) -> torch.Tensor | None:
        whole = self._whole(piece, key)
        return None if whole is None else whole.detach().reshape(-1)[piece.start : piece.start + piece.size]

    def write(self, piece: Piece, key: str, values: torch.Tensor) -> None:
        whole = self._whole(piece, key)
        assert whole is not None
        whole.detach().copy_(values.view_as(whole))

    def publish(self) -> None:
        for _, parameter in self.parameters():
            parameter.detach().copy_(self.master[id(parameter)])

    def _whole(self, piece: Piece, key: str) -> torch.Tensor | None:
        master = self.master[id(piece.parameter)]
        return master if key == MASTER else self.adam.state.get(master, {}).get(key)


class _Flat(EngineState):
    """ZeRO 1 and 2: a parameter group is one flat tensor, of which each rank has a stretch."""

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self.parameters():
            if parameter._hp_mapping is not None:  # type: ignore[attr-defined]
                address = parameter._hp_mapping.lp_fragment_address  # type: ignore[attr-defined]
                yield Piece(name, parameter, address.start, address.numel)

    def read(self, piece: Piece, key: str) -> torch.Tensor | None:
        mapping = piece.parameter._hp_mapping  # type: ignore[attr-defined]
        flat = self.masters()[mapping.param_group_index]
        held = flat if key == MASTER else self.adam.state.get(flat, {}).get(key)
        address = mapping.hp_fragment_address
        return None if held is None else held.detach().narrow(0, address.start, address.numel)

    def write(self, piece: Piece, key: str, values: torch.Tensor) -> None:
        held = self.read(piece, key)
        assert held is not None
        held.copy_(values)

    def publish(self) -> None:
        self.wrapper.update_lp_params()


class _Partitioned(EngineState):
    """ZeRO 3: each parameter is cut into equal parts; the last ones are padded."""

    def masters(self) -> list[torch.Tensor]:
        return list(self.wrapper.fp32_partitioned_groups_flat)

    def pieces(self) -> Iterator[Piece]:
        for name, parameter in self.parameters():
            start = self.rank * self._part(parameter)
            count = min(self._part(parameter), parameter.ds_numel - start)  # type: ignore[attr-defined]
            if count > 0:
                yield Piece(name, parameter, start, count)

    def read(self, piece: Piece, key: str) -> torch.Tensor | None:
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        if key == MASTER:
            held = safe_get_local_fp32_param(piece.parameter)
        elif any(self.adam.state.get(master) for master in self.masters()):
            held = safe_get_local_optimizer_state(piece.parameter, key)
        else:
            return None
        return held.detach()[: piece.size]  # type: ignore[no-any-return]

    def write(self, piece: Piece, key: str, values: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        padded = torch.nn.functional.pad(values, (0, self._part(piece.parameter) - piece.size))
        if key == MASTER:
            safe_set_local_fp32_param(piece.parameter, padded)
        else:
            safe_set_local_optimizer_state(piece.parameter, padded, key)

    def publish(self) -> None:
        # As DeepSpeed's own step after Adam: cast each sub-group, then gather the small parameters that it keeps whole.
        for number in range(len(self.masters())):
            self.wrapper._reassign_or_swap_out_partitioned_parameters(number)
        kept = self.wrapper.persistent_parameters
        if kept:
            kept[0].partition(kept)
            kept[0].all_gather(kept)

    @staticmethod
    def _part(parameter: torch.nn.Parameter) -> int:
        return int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]


def engine_state(engine: Any) -> EngineState:
    """The state of an engine, by its ZeRO stage."""
    stage = engine.zero_optimization_stage()
    kind = _Replicated if stage == 0 else _Partitioned if stage == 3 else _Flat
    return kind(engine)


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
