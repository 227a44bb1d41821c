"""Whether a worker's life is over, by what squeue and sacct say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hpoctl.record import Charge, Fate, TaskRecord, TaskState, WorkerId, WorkerRecord

_ENDED = (
    TaskState.COMPLETED,
    TaskState.FAILED,
    TaskState.CANCELLED,
    TaskState.TIMEOUT,
    TaskState.NODE_FAIL,
    TaskState.BOOT_FAIL,
    TaskState.DEADLINE,
    TaskState.OUT_OF_MEMORY,
    TaskState.PREEMPTED,
)
_SKEW_S = 5.0  # between the clocks of slurmctld and of a node


def by_queue(
    workers: Iterable[WorkerRecord], tasks: Sequence[TaskRecord]
) -> Mapping[WorkerId, Fate]:
    """The fate of each worker by squeue alone."""
    known = {task.task: task for task in tasks}
    return {worker.id: _of(worker, known.get(worker.task)) for worker in workers}


def _of(worker: WorkerRecord, task: TaskRecord | None) -> Fate:
    if task is None:
        return Fate.FORGOTTEN
    if task.restarts > worker.restarts or task.state in _ENDED:
        return Fate.GONE
    match task.state:
        # A life of its own it had, so it was queued again; by an older squeue without a count.
        case TaskState.PENDING:
            return Fate.GONE
        case TaskState.SUSPENDED | TaskState.STOPPED:
            return Fate.KEPT
        case TaskState.RUNNING:
            return Fate.RUNNING
        case _:  # on its way between two states, or in one that is new to us
            return Fate.UNKNOWN


def by_accounting(
    workers: Iterable[WorkerRecord], charges: Sequence[Charge]
) -> Mapping[WorkerId, Fate]:
    """The fate of workers that squeue has forgotten; a late sacct has nothing new to say."""
    return {worker.id: _by_charge(worker, charges) for worker in workers}


def _by_charge(worker: WorkerRecord, charges: Sequence[Charge]) -> Fate:
    begun = worker.allocated_at or worker.started_at
    before = [c for c in charges if c.task == worker.task and c.started_at <= begun + _SKEW_S]
    if before and before[-1].ended_at is not None and before[-1].state in _OVER:
        return Fate.GONE
    return Fate.FORGOTTEN


_OVER = (*_ENDED, TaskState.REQUEUED)  # in accounting a life that was queued again is over
