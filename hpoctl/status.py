"""Status of a study: joins what the study says with what the batch system says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl import hours
from hpoctl.hours import GpuHours, Line
from hpoctl.record import (
    Charge,
    Fate,
    Look,
    Stop,
    Summary,
    TaskRecord,
    TaskState,
    TrialState,
    WorkerId,
    WorkerRecord,
)
from hpoctl.rundir import Run
from hpoctl.words import Gist

LIVE = (
    TaskState.PENDING,
    TaskState.RUNNING,
    TaskState.COMPLETING,
    TaskState.SUSPENDED,
    TaskState.STOPPED,
    TaskState.REQUEUED,
    TaskState.UNKNOWN,  # a word of Slurm that is new to us
)
"""States in which a task runs or may still run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker as the batch system and as the study know it."""

    task: str
    state: TaskState
    node: str | None
    trial: int | None
    trials: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A study at a glance, with its workers and what it has cost.

    `lost` are trials that run in the study's eyes, but whose worker is gone; `undelivered` counts
    the results that the study has not got. The batch system's words are `age_s` old, None without
    any; where it does not answer, `silence` says why. Workers submit the `unsubmitted` tasks.
    """

    run: Run
    run_dir: Path
    gist: Gist
    storage: str
    summary: Summary
    workers: tuple[WorkerStatus, ...]
    gpu_hours: GpuHours
    eta_s: float | None
    lost: tuple[int, ...] = ()
    undelivered: int = 0
    silence: str | None = None
    age_s: int | None = None
    unsubmitted: int = 0

    @property
    def held(self) -> bool:
        """Whether tasks wait for something that is not of this plan."""
        planned = (None, "Dependency", "JobArrayTaskLimit")
        return any(
            worker.state is TaskState.PENDING and worker.reason not in planned
            for worker in self.workers
        )

    @property
    def waiting(self) -> int:
        return self.summary.counts[TrialState.WAITING]

    @property
    def finished(self) -> int:
        """Trials that ended, whatever way."""
        unfinished = self.waiting + self.summary.counts[TrialState.RUNNING]
        return sum(self.summary.counts.values()) - unfinished

    @property
    def spent(self) -> str | None:
        """Why no further trial starts: what the workers said that left for it."""
        raised_at = self.run.raised_at
        left = (w for w in self.summary.workers if (w.ended_at or 0.0) > raised_at)
        reasons = (worker.reason or "" for worker in left)
        return next((r for r in reasons if r.startswith("budget.") and self.waiting), None)

    @property
    def stopped(self) -> Stop | None:
        """Why the study stopped itself, until a worker starts after that."""
        stop = self.summary.stop
        if stop is None or any(w.started_at > stop.at for w in self.summary.workers):
            return None
        return stop

    @property
    def live_workers(self) -> int:
        return sum(worker.state in LIVE for worker in self.workers)


def join_workers(workers: Sequence[WorkerRecord], look: Look) -> tuple[WorkerStatus, ...]:
    """Every task that ever had a worker, by its last one, and every task that is still known."""
    by_task = {worker.task: worker for worker in workers}
    known = {task.task: task for task in look.tasks}
    names = [*known, *(task for task in by_task if task not in known)]
    unknown = TaskState.GONE if look.asked_at else TaskState.UNKNOWN
    return tuple(_join(name, by_task.get(name), known.get(name), unknown) for name in names)


def _join(
    name: str, worker: WorkerRecord | None, task: TaskRecord | None, unknown: TaskState
) -> WorkerStatus:
    again = worker is not None and task is not None and task.restarts > worker.restarts
    if worker is not None and worker.ended_at is not None and not again:
        state = TaskState.FAILED if worker.failed else TaskState.COMPLETED
    elif task is None:
        state = unknown
    else:
        state = task.state
    return WorkerStatus(
        task=name,
        state=state,
        node=worker.node if worker else task.node if task else None,
        trial=worker.trial if worker else None,
        trials=worker.trials if worker else 0,
        reason=(worker.reason if worker else None) or (task.reason if task else None),
    )


def lost_trials(workers: Iterable[WorkerRecord], fates: Mapping[WorkerId, Fate]) -> tuple[int, ...]:
    """The trials of workers that the batch system knows as gone, or not at all."""
    gone = (Fate.GONE, Fate.FORGOTTEN)
    trials = [w.trial for w in workers if w.trial is not None and fates[w.id] in gone]
    return tuple(sorted(trials))


def ledger(
    workers: Sequence[WorkerRecord], look: Look, charges: Sequence[Charge], now: float
) -> tuple[Line, ...]:
    """All allocations up to `now`, or to the last sign of life of workers that are gone.

    Of a task that runs, the last worker is alive. A slurmctld that was killed may have started it
    more than once without counting a restart.
    """
    live = {(task.task, task.restarts) for task in look.tasks if task.state in LIVE}
    last: dict[str, int] = {}
    for worker in workers:
        last[worker.task] = max(worker.life, last.get(worker.task, 0))

    def until(worker: WorkerRecord) -> float:
        is_last = worker.life == last[worker.task]
        alive = is_last and (worker.task, worker.restarts) in live
        return worker.ended_at or (now if alive else worker.seen_at)

    return hours.ledger(workers, until, tasks=look.tasks, charges=charges, now=now)


def eta_s(summary: Summary, workers: Sequence[WorkerStatus]) -> float | None:
    """Seconds to the end of the queue at the pace so far; None where there is no pace yet."""
    done = sum(worker.trials for worker in summary.workers)
    running = sum(worker.state is TaskState.RUNNING for worker in workers)
    left = summary.counts[TrialState.WAITING] + summary.counts[TrialState.RUNNING]
    if not left:
        return 0.0
    if not done or not running:
        return None
    mean_s = sum(worker.training_s for worker in summary.workers) / done
    return left * mean_s / min(running, left)
