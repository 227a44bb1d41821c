"""What a study remembers, as frozen values: trials, workers and their sums.

Written by `study/`, read by everything above it; knows neither Optuna nor SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from hpoctl.space import Params
from hpoctl.words import Cause


class TrialState(StrEnum):
    """Optuna's states, in the words of `hpoctl status`."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Outcome(StrEnum):
    """How an attempt at a trial ended. LOST: its worker died. RETURNED: its worker had to leave."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    LOST = "lost"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One claim of a trial that has ended. Times are seconds since 1970.

    Without a `cause` nothing went wrong. `error` is a traceback, or a line.
    """

    number: int
    attempt: int
    task: str
    node: str
    started_at: float
    ended_at: float
    outcome: Outcome
    cause: Cause | None = None
    error: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the objective came to its end, or to its pruner's."""
        return self.cause is None and self.outcome in (Outcome.COMPLETE, Outcome.PRUNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial of a study. Times are UTC; `steps` maps a step to the reported value.

    `constraints` says by how much each of them is violated: 0 or less where it is kept.

    `attrs` holds what was kept with it: `task`, `node`, `error` (a traceback), `cause`, `seed`,
    `parent` (the number of the trial that it goes on from) and every further value that the
    objective returned.
    """

    number: int
    state: TrialState
    values: tuple[float, ...] | None = None
    params: Params = field(default_factory=dict)
    steps: Mapping[int, float] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    attrs: Mapping[str, object] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether it violates no constraint, as far as is known."""
        return not any(violation > 0 for violation in self.constraints.values())

    @property
    def root(self) -> int:
        """The number of the trial that this one repeats, else its own: they share a folder."""
        return int(str(self.attrs.get("retry_of", self.number)))

    @property
    def duration_s(self) -> float | None:
        """Seconds from claim to end, or None while it has not ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


class Parent(NamedTuple):
    """The trial that another one goes on from, and the number that its folder has."""

    number: int
    root: int


class WorkerId(NamedTuple):
    """A task and which of its lives, from 1."""

    task: str
    life: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One worker's life, as it wrote it to the study itself. Times are seconds since 1970.

    Slurm may start a task again under its old name: each start is a `life` of the task, from 1.
    `trial` is what it has claimed and not ended, as the study says; it began at `trial_at`. A batch
    system that queues a task again counts `restarts`. What it gave to this life, it gave at
    `allocated_at`, before the minutes that `setup` may take. `told` is the signal by which it was
    told to go, at `told_at`: a worker that is gone after one was no victim of its trial.
    """

    task: str
    node: str
    pid: int
    gpus: int
    started_at: float
    ready_at: float | None = None
    training_s: float = 0.0
    trials: int = 0
    trial: int | None = None
    seen_at: float = 0.0
    ended_at: float | None = None
    reason: str | None = None
    failed: bool = False
    life: int = 1
    restarts: int = 0
    allocated_at: float | None = None
    trial_at: float | None = None
    told: str | None = None
    told_at: float | None = None

    @property
    def id(self) -> WorkerId:
        """What tells this life from every other."""
        return WorkerId(self.task, self.life)


class TaskState(StrEnum):
    """What the batch system says of an array task.

    GONE is a task that it does not know any more, UNKNOWN any word of it that is not listed here.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETING = "COMPLETING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    REQUEUED = "REQUEUED"
    GONE = "GONE"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def _missing_(cls, value: object) -> TaskState:
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One array task as the batch system sees it now. Times are seconds since 1970."""

    task: str
    state: TaskState
    node: str | None = None
    reason: str | None = None
    restarts: int = 0
    gpus: int | None = None
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What accounting charges for one life of a task; `gpus` is None where it counts none.

    Times are seconds since 1970; `elapsed_s` leaves out what it was suspended.
    """

    task: str
    state: TaskState
    started_at: float
    ended_at: float | None
    elapsed_s: float
    gpus: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a batch system said of all tasks of a run `asked_at` a moment.

    `silence` says why there is no newer answer; without any answer there are no tasks.
    """

    tasks: tuple[TaskRecord, ...] = ()
    asked_at: float = 0.0
    silence: str | None = None


class Fate(StrEnum):
    """What a batch system knows of a worker's life.

    GONE: it has ended, or its task was queued again. KEPT: it is held still and may go on.
    RUNNING: its task runs, it may hang. FORGOTTEN: not known any more, or there is nobody to ask.
    UNKNOWN: no answer now.
    """

    GONE = "gone"
    KEPT = "kept"
    RUNNING = "running"
    FORGOTTEN = "forgotten"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """When a study stopped itself, and why."""

    at: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study at a glance: counts by state, the best trial, the workers.

    `infeasible` counts the trials that violate a constraint, which may be complete or pruned.
    `stop` is the last time that it stopped itself, `bad_nodes` says of each why it is avoided.
    """

    counts: Mapping[TrialState, int]
    best: TrialRecord | None
    workers: tuple[WorkerRecord, ...]
    stop: Stop | None = None
    bad_nodes: Mapping[str, str] = field(default_factory=dict)
    infeasible: int = 0
