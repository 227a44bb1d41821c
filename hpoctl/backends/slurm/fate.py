"""Whether a worker's life is over, and why, by what squeue and sacct say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hpoctl.record import Charge, Fate, TaskRecord, TaskState, WorkerId, WorkerRecord
from hpoctl.words import Cause

ENDED = (
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
_CAUSES = {
    TaskState.NODE_FAIL: Cause.NODE_FAIL,
    TaskState.BOOT_FAIL: Cause.NODE_FAIL,
    TaskState.OUT_OF_MEMORY: Cause.HOST_OOM,
    TaskState.TIMEOUT: Cause.TIMEOUT,
    TaskState.DEADLINE: Cause.TIMEOUT,
    TaskState.PREEMPTED: Cause.PREEMPTED,
    TaskState.REQUEUED: Cause.REQUEUED,
    TaskState.CANCELLED: Cause.CANCELLED,
}
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
    if task.state is TaskState.COMPLETING:  # the worker may be finishing its trial, for KillWait
        return Fate.UNKNOWN
    if task.restarts > worker.restarts or task.state in ENDED:
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
    return Fate.FORGOTTEN if _ended_as(worker, charges) is None else Fate.GONE


def _ended_as(worker: WorkerRecord, charges: Sequence[Charge]) -> TaskState | None:
    """How accounting says that a life ended, or None while it does not."""
    begun = worker.allocated_at or worker.started_at
    before = [c for c in charges if c.task == worker.task and c.started_at <= begun + _SKEW_S]
    if before and before[-1].ended_at is not None and before[-1].state in _OVER:
        return before[-1].state
    return None


_OVER = (*ENDED, TaskState.REQUEUED)  # in accounting a life that was queued again is over


def accounted(worker: WorkerRecord, charges: Sequence[Charge]) -> Cause | None:
    """Why accounting says that a task was taken from its worker, or None while it does not."""
    state = _ended_as(worker, charges)
    return None if state is None else _CAUSES.get(state)


def causes(
    workers: Iterable[WorkerRecord], tasks: Sequence[TaskRecord], charges: Sequence[Charge]
) -> Mapping[str, Cause]:
    """Why tasks took their workers' lives with them, where Slurm says so.

    squeue knows how a task ended that is still the worker's; only accounting knows why one was
    queued again.
    """
    known = {task.task: task for task in tasks}
    found = {}
    for worker in workers:
        task = known.get(worker.task)
        state = _ended_as(worker, charges)
        if state is None and task is not None:
            again = task.restarts > worker.restarts
            state = TaskState.REQUEUED if again else task.state
        if state in _CAUSES:
            found[worker.task] = _CAUSES[state]
    return found
