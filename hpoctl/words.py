"""Words that the sweep file, plan.json and every command share; loads nothing, so all may read it.

Their checks stand in `sweep`, which loads pydantic; a command that only reads a study has no use
for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


def nearest(word: str, known: list[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or all of them."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def many(count: int, noun: str) -> str:
    """`1 task`, `1,000 tasks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Mode(StrEnum):
    """The shape of the plan."""

    BATCH = "batch"
    SEQUENTIAL = "sequential"
    ASYNC = "async"


class BackendName(StrEnum):
    """The batch system that the plan is given to."""

    SLURM = "slurm"
    LOCAL = "local"


class OriginKind(StrEnum):
    """What hpoctl made a sweep for, out of another one."""

    CONFIRM = "confirm"
    FINAL = "final"
    ENSEMBLE = "ensemble"
    FIT = "fit"


class Cause(StrEnum):
    """Why an attempt at a trial came to nothing: the classes of `hpoctl failures`.

    PREEMPTED is also a SIGTERM of which nobody says why. LOST is a worker that was gone without a
    word, where the batch system says no more.
    """

    CUDA_OOM = "cuda_oom"
    HOST_OOM = "host_oom"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    CANCELLED = "cancelled"
    NODE_FAIL = "node_fail"
    LOST = "lost"
    NAN = "nan"
    INFEASIBLE = "infeasible"
    IMPORT = "import"
    ERROR = "error"


class Policy(StrEnum):
    """What becomes of a trial after such an attempt.

    RETRY queues it again and counts that as a loss, REQUEUE without counting. INFEASIBLE ends it as
    pruned without a value, and as one that violates a constraint, so that a sampler that learns
    keeps away from it; FAIL as failed.
    """

    RETRY = "retry"
    REQUEUE = "requeue"
    INFEASIBLE = "infeasible"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKeys:
    """The key of `storage` that a sweep gave, if any; never a password."""

    url: str | None = None
    url_env: str | None = None
    url_file: str | None = None
    sqlite: str | None = None
    journal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gist:
    """What of a sweep a command needs that only reads: kept in plan.json, as YAML is slow to read.

    `metrics` are the names of the values that the study compares, the first one first; `shown`
    those of further values to be shown with each trial; `gpu_hours` is the budget of them.
    """

    metrics: tuple[str, ...]
    gpu_hours: float | None
    storage: StorageKeys
    shown: tuple[str, ...] = ()
