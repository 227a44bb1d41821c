"""How much memory a trial has used at its peak, by what its own process can know.

In GiB, as torch and nvidia-smi count, under the names by which constraints are given. torch is
looked at, not loaded: a trial that has not loaded it uses no GPU through it.
"""

from __future__ import annotations

import resource
import sys

_KIB_PER_GIB = 2**20
_GIB = 2**30


def peaks() -> dict[str, float]:
    """`host_memory_gb` of this process and of its programs; `memory_gb` of the fullest GPU."""
    known = {"host_memory_gb": max(_host(resource.RUSAGE_SELF), _host(resource.RUSAGE_CHILDREN))}
    gpu = _gpu()
    return known if gpu is None else {"memory_gb": gpu, **known}


def of_children() -> float:
    """The peak of the largest of all processes that this one has started and that have ended."""
    return _host(resource.RUSAGE_CHILDREN)


def _host(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / _KIB_PER_GIB


def _gpu() -> float | None:
    """What torch has reserved on its fullest GPU; None where it has not touched any."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    gpus = range(torch.cuda.device_count())
    return max((torch.cuda.max_memory_reserved(gpu) / _GIB for gpu in gpus), default=None)
