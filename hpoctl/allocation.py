"""What an array task was given, and until when: its own end, not a guess by the signals it gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpoctl.backends.slurm import end
from hpoctl.errors import BatchSystemError
from hpoctl.words import BackendName

_QUANTILE = 0.95
_FRESH = 0.75  # an allocation of which so much is left will have no more time for any trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What the array task was given, as slurm/worker.sh says it."""

    task: str
    node: str
    cpus: int
    gpus: int
    trials: int | None
    walltime_s: float | None
    ends_at: float | None = None
    restarts: int = 0
    at: float | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Allocation:
        """From the HPOCTL_* variables of the script."""
        return cls(
            task=environ.get("HPOCTL_TASK") or f"local_{os.getpid()}",
            node=environ.get("HPOCTL_NODE") or os.uname().nodename,
            cpus=int(environ.get("HPOCTL_CPUS") or 1),
            gpus=int(environ.get("HPOCTL_GPUS") or 0),
            trials=int(environ.get("HPOCTL_TRIALS_PER_TASK") or 0) or None,
            walltime_s=float(environ.get("HPOCTL_WALLTIME_S") or 0) or None,
            ends_at=float(environ.get("HPOCTL_ENDS_AT") or 0) or None,
            restarts=int(environ.get("HPOCTL_RESTARTS") or 0),
            at=float(environ.get("HPOCTL_ALLOCATED_AT") or 0) or None,
        )


@dataclass(slots=True, kw_only=True)
class Clock:
    """Until when an allocation lasts, in seconds since 1970; None where it has no end.

    `ask` asks the batch system, which may have been told to give it more time meanwhile.
    """

    ends_at: float | None
    ask: Callable[[], float | None]

    def refresh(self) -> None:
        """Asks again; no answer leaves what was known."""
        self.ends_at = self.ask() or self.ends_at

    def left_s(self, now: float) -> float:
        """Seconds to the end; infinite where there is none."""
        return float("inf") if self.ends_at is None else self.ends_at - now


def clock(allocation: Allocation, backend: BackendName, started_at: float) -> Clock:
    """The clock of an allocation: by its batch system, else by its walltime from `started_at`.

    Slurm is not asked by every worker that starts, but before one acts on what it knows.
    """

    def ask() -> float | None:
        if backend is not BackendName.SLURM or allocation.walltime_s is None:
            return None
        try:
            return end.ends_at(allocation.task)
        except BatchSystemError:  # no squeue on this node, or no answer now
            return None

    known = allocation.ends_at
    if known is None and allocation.walltime_s is not None:
        known = started_at + allocation.walltime_s
    return Clock(ends_at=known, ask=ask)


def expected_s(durations: Sequence[float]) -> float:
    """How long a trial is expected to take by the last ones; 0.0 where nothing is known.

    The 95th of a hundred, and with fewer than twenty the longest. Not the longest of all: a single
    trial that hung for hours would let every later allocation end after one trial. Of the one in
    twenty that takes longer, only what starts near an end is run again.
    """
    if not durations:
        return 0.0
    ordered = sorted(durations)
    return ordered[min(len(ordered) - 1, int(_QUANTILE * len(ordered)))]


def is_fresh(began_at: float, now: float, left_s: float) -> bool:
    """Whether no later allocation would have notably more time for a trial."""
    return left_s >= _FRESH * (now - began_at + left_s)
