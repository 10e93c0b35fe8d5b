"""Whether an index is trained and filled on a GPU, and how it goes there and back.

Only an IVF gains: its training and its assignment of rows to lists are matrix products. FAISS' GPU build is needed
(`faiss-gpu-cu12` from the index, or conda's `faiss-gpu`); files are the CPU's, so any machine searches them.

Which factories FAISS can put on a GPU it alone knows (lists of PQ codes of some sizes, none of a graph over centroids),
and it says so when it is asked to. Where a GPU was asked for, that ends the run; else the task goes on on its CPUs, and
its ledger entry says why, for the driver to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from ccp_ray.errors import CcpError, UsageError
from ccp_ray.index_anatomy import Anatomy, faiss_errors
from ccp_ray.ledger import Entry
from ccp_ray.progress import say
from ccp_ray.session import cluster_gpus

GpuUse = Literal["no", "if it can", "must"]
_REASON = "not_on_gpu"  # in the entry of a task that had a GPU and could not use it


class Placed(NamedTuple):
    """An index where it is trained or filled. told: what the task's entry says of it."""

    index: Any
    on_gpu: bool
    told: dict[str, str]

    def home(self) -> Any:
        """The index in main memory, as it is written."""
        import faiss

        return faiss.index_gpu_to_cpu(self.index) if self.on_gpu else self.index


def check_gpu(wanted: bool | None, facts: Anatomy) -> None:
    """Raises UsageError where a GPU is asked for that FAISS cannot use, before anything is written."""
    if wanted and not facts.lists:
        raise UsageError("resources.gpu: only an IVF is built faster on a GPU; leave it out, or choose an IVF factory")
    if wanted and not _supported():
        raise UsageError("resources.gpu: this FAISS has no GPU support; install a faiss-gpu package, or leave it out")


def gpu_of_task(wanted: bool | None, facts: Anatomy) -> GpuUse:
    """What tasks that train or add do with a GPU, in a Ray session. Raises UsageError where one must be and is not."""
    there = cluster_gpus() > 0
    if wanted and not there:
        raise UsageError("resources.gpu: the Ray cluster has no GPU; add a node with one, or leave it out")
    if wanted is False or not there or not facts.lists or not _supported():
        return "no"
    return "must" if wanted else "if it can"


def placed(index: Any, factory: str, use: GpuUse) -> Placed:
    """Put an index where it is to be trained or filled. Raises CcpError where it must be a GPU and cannot."""
    if use == "no":
        return Placed(index, False, {})
    try:
        with faiss_errors(factory):
            return Placed(_to_gpu(index), True, {})
    except UsageError as error:
        reason: CcpError = UsageError(f"{error} on a GPU; choose another factory, or set resources.gpu=false")
    except CcpError as error:
        reason = error
    if use == "must":
        raise reason
    return Placed(index, False, {_REASON: str(reason)})


def tell_cpu(entries: Iterable[Entry]) -> bool:
    """Say why tasks did without the GPU that they had. Whether one did."""
    reasons = {entry.info[_REASON] for entry in entries if _REASON in entry.info}
    for reason in sorted(reasons):
        say(f"index: the CPUs build it, not a GPU: {reason}")
    return bool(reasons)


def _to_gpu(index: Any) -> Any:
    """A copy of an index on the GPU that Ray gave this task. Raises CcpError where FAISS sees none."""
    import faiss

    if not _supported() or faiss.get_num_gpus() < 1:
        raise CcpError("FAISS sees no GPU on this node; install its GPU build there, or set resources.gpu=false")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def _supported() -> bool:
    import faiss

    return hasattr(faiss, "StandardGpuResources")
