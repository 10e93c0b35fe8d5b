"""What this process computes on: device, threads, and whether bf16 is native."""

from __future__ import annotations

from typing import Literal

import torch

from ccp_ray.errors import CcpError

Precision = Literal["auto", "fp32", "bf16"]


def device(gpu: bool | None = None) -> torch.device:
    """The GPU that Ray gave this process, else the CPU. gpu: True for a GPU, False for the CPU; None: a GPU if it can.

    A worker that has reserved no GPU sees none (`session`); a process that is no worker of Ray must be told. Raises
    CcpError for True where torch sees no GPU.
    """
    seen = gpu is not False and torch.cuda.is_available()
    if gpu and not seen:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise CcpError(
            f"resources.gpu=true: torch {torch.__version__} ({build}) sees no GPU on this node; install a torch with "
            "CUDA that fits its driver, or set resources.gpu=false"
        )
    return torch.device("cuda", torch.cuda.current_device()) if seen else torch.device("cpu")


def native_bf16(where: torch.device | None = None) -> bool:
    """Whether bf16 matrix products run in hardware (Ampere and newer; AVX512-BF16 or AMX on CPUs). None: `device()`.

    Elsewhere torch emulates them several times slower than fp32.
    """
    if (where or device()).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(precision: Precision, where: torch.device | None = None) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where it is native, else fp32. where: the device; None: `device()`."""
    if precision == "auto":
        return "bf16" if native_bf16(where) else "fp32"
    return precision
