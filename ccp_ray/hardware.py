"""What this process computes on: device, threads, and whether bf16 is native."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def native_bf16() -> bool:
    """Whether bf16 matrix products run in hardware (Ampere and newer; AVX512-BF16 or AMX on CPUs).

    Elsewhere torch emulates them several times slower than fp32.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(precision: Precision) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where it is native, else fp32."""
    if precision == "auto":
        return "bf16" if native_bf16() else "fp32"
    return precision
