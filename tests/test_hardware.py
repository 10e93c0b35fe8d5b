"""Devices: whoever wants the CPU gets it on a machine with GPUs too. No GPU is at hand: torch's answers are put in."""

from __future__ import annotations

import os

import pytest
import torch

from ccp_ray.errors import CcpError
from ccp_ray.hardware import device, native_bf16, resolve

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(params=[True, False])
def cpu_bf16(request, monkeypatch) -> bool:
    """Whether the CPU has bf16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return request.param


def machine(monkeypatch, gpu: bool, gpu_bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_bf16)


@pytest.mark.parametrize(("asked", "expected"), [(None, GPU), (True, GPU), (False, CPU)])
def test_a_machine_with_a_gpu(monkeypatch, asked, expected):
    machine(monkeypatch, gpu=True)
    assert device(asked) == expected


def test_a_machine_without_a_gpu(monkeypatch):
    machine(monkeypatch, gpu=False)
    assert device() == device(False) == CPU
    with pytest.raises(CcpError, match=r"resources.gpu=true: torch .* sees no GPU on this node; install .*gpu=false"):
        device(True)


@pytest.mark.parametrize("gpu_bf16", [True, False])
def test_bf16_is_the_devices_own_whatever_else_the_machine_has(monkeypatch, cpu_bf16, gpu_bf16):
    machine(monkeypatch, gpu=True, gpu_bf16=gpu_bf16)
    assert (native_bf16(CPU), native_bf16(GPU), native_bf16()) == (cpu_bf16, gpu_bf16, gpu_bf16)
    assert resolve("auto", CPU) == ("bf16" if cpu_bf16 else "fp32")
    assert resolve("auto", GPU) == ("bf16" if gpu_bf16 else "fp32")
    assert (resolve("fp32", GPU), resolve("bf16", CPU)) == ("fp32", "bf16")


def test_a_worker_that_reserved_no_gpu_sees_none_of_its_node(ray_local):
    import ray

    node = ray.remote(num_cpus=0.1, runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": "0,1"}})
    visible = node(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert ray.get(visible.remote()) == ""
