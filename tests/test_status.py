"""The status: what the study says of its workers joined with what the batch system says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpoctl.hours import GpuHours
from hpoctl.record import Fate, Look, Summary, TaskRecord, TaskState, TrialState, WorkerRecord
from hpoctl.rundir import Run
from hpoctl.status import Status, WorkerStatus, eta_s, join_workers, ledger, lost_trials
from hpoctl.words import BackendName, Gist, Mode, StorageKeys


def worker(task: str, **known: Any) -> WorkerRecord:
    fields: dict[str, Any] = {"node": "n1", "pid": 1, "gpus": 1, "started_at": 0.0}
    return WorkerRecord(task=task, **{**fields, **known})


def joined(task: str, state: TaskState, **known: Any) -> WorkerStatus:
    fields: dict[str, Any] = {"node": None, "trial": None, "trials": 0, "reason": None}
    return WorkerStatus(task=task, state=state, **{**fields, **known})


def look(*tasks: TaskRecord) -> Look:
    return Look(tasks=tasks, asked_at=1.0)


def summary(workers: tuple[WorkerRecord, ...] = (), **counts: int) -> Summary:
    states = {state: counts.get(state, 0) for state in TrialState}
    return Summary(counts=states, best=None, workers=workers)


def status_of(*workers: WorkerStatus, counts: Summary | None = None) -> Status:
    run = Run(
        study="s", mode=Mode.ASYNC, backend=BackendName.SLURM, trials=9, arrays=(),
        overrides=(), workdir=Path("/w"), created_at=0.0,
    )  # fmt: skip
    return Status(
        run=run,
        run_dir=Path("/r"),
        gist=Gist(metrics=("value",), gpu_hours=None, storage=StorageKeys()),
        storage="j",
        summary=counts or summary(),
        workers=workers,
        gpu_hours=GpuHours(allocated=0, training=0, startup=0),
        eta_s=None,
    )


def test_a_worker_has_the_state_of_its_task_and_the_trial_of_the_study() -> None:
    known = worker("7_0", trial=4, trials=2)
    task = TaskRecord(task="7_0", state=TaskState.RUNNING, node="n1")
    assert join_workers([known], look(task)) == (
        joined("7_0", TaskState.RUNNING, node="n1", trial=4, trials=2),
    )


def test_a_task_that_waits_is_shown_with_its_reason() -> None:
    task = TaskRecord(task="7_1", state=TaskState.PENDING, reason="Priority")
    assert join_workers([], look(task)) == (joined("7_1", TaskState.PENDING, reason="Priority"),)


def test_a_worker_that_said_goodbye_is_completed_whatever_the_batch_system_knows() -> None:
    left = worker("7_0", ended_at=9.0, reason="no trial waits")
    running = TaskRecord(task="7_0", state=TaskState.RUNNING, node="n1")
    for tasks in ([], [running]):
        (shown,) = join_workers([left], look(*tasks))
        assert (shown.state, shown.reason) == (TaskState.COMPLETED, "no trial waits")


def test_a_worker_without_goodbye_and_without_a_task_is_gone() -> None:
    (shown,) = join_workers([worker("7_0", trial=3)], look())
    assert (shown.state, shown.trial) == (TaskState.GONE, 3)


def test_every_task_and_every_worker_is_shown_once() -> None:
    tasks = [TaskRecord(task=name, state=TaskState.RUNNING) for name in ("7_0", "7_1")]
    shown = join_workers([worker("6_0", ended_at=1.0), worker("7_1")], look(*tasks))
    assert [one.task for one in shown] == ["7_0", "7_1", "6_0"]


def test_states_in_which_a_task_may_still_run_are_live() -> None:
    states = (
        TaskState.PENDING, TaskState.RUNNING, TaskState.COMPLETING, TaskState.SUSPENDED,
        TaskState.REQUEUED, TaskState.UNKNOWN, TaskState.COMPLETED, TaskState.FAILED,
        TaskState.CANCELLED, TaskState.TIMEOUT, TaskState.NODE_FAIL, TaskState.GONE,
    )  # fmt: skip
    workers = [joined(f"7_{index}", state) for index, state in enumerate(states)]
    assert status_of(*workers).live_workers == 6


def test_finished_trials_ended_whatever_way() -> None:
    now = status_of(counts=summary(waiting=4, running=2, complete=3, pruned=1, failed=1))
    assert (now.waiting, now.finished) == (4, 5)


def test_gpu_hours_count_to_now_while_slurm_knows_the_worker_and_else_to_its_last_sign() -> None:
    known = worker("7_0", ready_at=0.0, seen_at=1800.0)
    running = TaskRecord(task="7_0", state=TaskState.RUNNING)
    again = TaskRecord(task="7_0", state=TaskState.RUNNING, restarts=1)
    ended = worker("7_1", ready_at=0.0, seen_at=1800.0, ended_at=3600.0)

    def allocated(one: WorkerRecord, *tasks: TaskRecord) -> float:
        return sum(line.allocated_s for line in ledger([one], look(*tasks), (), 7200.0))

    assert allocated(known, running) == 7200
    assert allocated(known) == allocated(known, again) == 1800
    assert allocated(ended) == 3600


def test_of_a_task_that_was_started_more_than_once_only_the_last_worker_counts_to_now() -> None:
    orphan = worker("7_0", allocated_at=100.0, seen_at=110.0)
    runs = worker("7_0", allocated_at=140.0, life=2, seen_at=150.0)
    task = TaskRecord(task="7_0", state=TaskState.RUNNING, started_at=139.0, gpus=1)
    lines = ledger([orphan, runs], look(task), (), 200.0)
    assert [(line.allocated_s, line.known_from) for line in lines] == [
        (10, "worker"),
        (61, "squeue"),
    ]


def test_a_trial_is_lost_whose_worker_slurm_knows_as_gone_or_not_at_all() -> None:
    fates = (Fate.GONE, Fate.FORGOTTEN, Fate.KEPT, Fate.RUNNING, Fate.UNKNOWN)
    workers = [worker(fate, trial=number) for number, fate in enumerate(fates)]
    assert lost_trials(workers, {one.id: Fate(one.task) for one in workers}) == (0, 1)


def test_a_budget_that_is_spent_is_told_while_trials_wait() -> None:
    left = worker("7_0", ended_at=9.0, reason="budget.time is spent")
    now = status_of(counts=summary((left,), waiting=1))
    assert now.spent == "budget.time is spent"
    assert replace(now, run=replace(now.run, raised_at=10.0)).spent is None
    assert status_of(counts=summary((left,), complete=1)).spent is None


def test_where_the_batch_system_never_answered_a_worker_is_unknown_and_not_gone() -> None:
    (shown,) = join_workers([worker("7_0")], Look(silence="away"))
    assert shown.state is TaskState.UNKNOWN


def test_a_task_that_waits_again_is_pending_whatever_its_former_life_said() -> None:
    left = worker("7_0", ended_at=9.0, reason="gone without a word", failed=True)
    (shown,) = join_workers(
        [left], look(TaskRecord(task="7_0", state=TaskState.PENDING, restarts=1))
    )
    assert shown.state is TaskState.PENDING


def test_the_time_left_is_the_pace_so_far_over_the_workers_that_run() -> None:
    workers = (worker("7_0", trials=2, training_s=200.0), worker("7_1", trials=2, training_s=200.0))
    shown = [joined("7_0", TaskState.RUNNING), joined("7_1", TaskState.RUNNING)]
    assert eta_s(summary(workers, waiting=8, running=2, complete=4), shown) == 500.0


def test_more_workers_than_trials_left_do_not_make_it_shorter() -> None:
    workers = (worker("7_0", trials=1, training_s=100.0),)
    shown = [joined(f"7_{index}", TaskState.RUNNING) for index in range(8)]
    assert eta_s(summary(workers, running=1, complete=1), shown) == pytest.approx(100.0)


def test_there_is_no_time_left_to_tell_without_a_pace_or_without_a_worker() -> None:
    done = (worker("7_0", trials=1, training_s=100.0),)
    running = [joined("7_0", TaskState.RUNNING)]
    assert eta_s(summary(waiting=3), running) is None
    assert eta_s(summary(done, waiting=3), [joined("7_0", TaskState.PENDING)]) is None
    assert eta_s(summary(done, complete=3), []) == 0.0
