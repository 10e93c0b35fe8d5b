"""Where a DeepSpeed engine holds its training state: one class for each way of ZeRO.

Each rank holds pieces of the fp32 master weights and of Adam's two moments: under ZeRO 1 to 3 its partition, under
ZeRO 0 all of them. A piece is named by its parameter and the first element it has of the flattened parameter.

DeepSpeed's public `safe_get_full_*` helpers were not taken: they all-reduce each whole parameter three times, lack
ZeRO 0, and `safe_set_full_*` fails under ZeRO 3 where the world size does not divide a parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")


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
