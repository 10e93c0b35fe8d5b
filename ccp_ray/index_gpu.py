"""Whether an index is trained and filled on a GPU, and how it goes there and back.

Only an IVF gains: its training and its assignment of rows to lists are matrix products. FAISS' GPU build is needed
(`faiss-gpu-cu12` from the index, or conda's `faiss-gpu`); files are the CPU's, so any machine searches them.
"""

from __future__ import annotations

from typing import Any

from ccp_ray.errors import CcpError, UsageError
from ccp_ray.index_anatomy import Anatomy


def check_gpu(wanted: bool | None, facts: Anatomy) -> None:
    """Raises UsageError where a GPU is asked for that FAISS cannot use, before anything is written."""
    if wanted and not facts.lists:
        raise UsageError("resources.gpu: only an IVF is built faster on a GPU; leave it out, or choose an IVF factory")
    if wanted and not _supported():
        raise UsageError("resources.gpu: this FAISS has no GPU support; install a faiss-gpu package, or leave it out")


def gpus_of_task(wanted: bool | None, facts: Anatomy) -> int:
    """GPUs that Ray reserves for a task that trains or adds, in a Ray session. Raises UsageError where it has none."""
    import ray

    there = ray.cluster_resources().get("GPU", 0) >= 1
    if wanted and not there:
        raise UsageError("resources.gpu: the Ray cluster has no GPU; add a node with one, or leave it out")
    return int(wanted is not False and there and bool(facts.lists) and _supported())


def to_gpu(index: Any) -> Any:
    """A copy of an index on the GPU that Ray gave this task. Raises CcpError where FAISS sees none."""
    import faiss

    if not _supported() or faiss.get_num_gpus() < 1:
        raise CcpError("FAISS sees no GPU on this node; install its GPU build there, or set resources.gpu=false")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def to_cpu(index: Any) -> Any:
    """The index in main memory, as it is written."""
    import faiss

    return faiss.index_gpu_to_cpu(index)


def _supported() -> bool:
    import faiss

    return hasattr(faiss, "StandardGpuResources")
