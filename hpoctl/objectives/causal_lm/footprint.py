"""What a trial takes: peaks of memory, parameters, bytes. 1 GB is 2**30 bytes, 1 MB is 2**20.

So count Slurm, nvidia-smi and torch. It loads no torch of its own: without it no GPU is in use.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

_GB = 2**30


def reset_peaks() -> None:
    """Start anew: a forked child's peak begins with all that its parent holds.

    The kernel lets a process reset its own VmHWM, except in some containers. There the peak is at
    least what the worker held at the fork, which the trial's own memory soon exceeds.
    Source: https://docs.kernel.org/filesystems/proc.html, /proc/PID/clear_refs.
    """
    with contextlib.suppress(OSError):  # a peak that is too high is better than none
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)


def peaks() -> dict[str, float]:
    """`memory_gb`, what torch reserved on its fullest GPU, and `host_memory_gb`, VmHWM.

    Without a GPU both are the host's. Processes that the trial started are not in it.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "Linux has it in the status of every process"
    host = int(found[1]) * 1024 / _GB
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {"memory_gb": host, "host_memory_gb": host}
    gpus = range(torch.cuda.device_count())
    reserved = max(torch.cuda.max_memory_reserved(gpu) for gpu in gpus)
    return {"memory_gb": reserved / _GB, "host_memory_gb": host}


def gpus() -> int:
    """How many GPUs the trial holds: those that torch sees, or one a rank."""
    import torch

    if not torch.cuda.is_available():
        return 0
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return max(torch.cuda.device_count(), ranks)


def sizes(llm: Module) -> dict[str, float]:
    """`parameters`, `trainable_parameters` and `model_mb`, which is the bytes of their types.

    A weight that two layers share counts once; a 4-bit byte holds two parameters.
    """
    found = {"parameters": 0, "trainable_parameters": 0}
    held = 0
    for weights in llm.parameters():
        stored = weights.numel() * weights.element_size()
        count = 2 * stored if type(weights).__name__ == "Params4bit" else weights.numel()
        found["parameters"] += count
        found["trainable_parameters"] += count if weights.requires_grad else 0
        held += stored
    return {**{name: float(count) for name, count in found.items()}, "model_mb": held / 2**20}
