"""GPU-hours: every second that was allocated is counted once, whoever knows of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.hours import Line, ledger, spent, total
from hpoctl.record import Charge, TaskRecord, TaskState, WorkerRecord


def worker(task: str = "7_0", **known: Any) -> WorkerRecord:
    fields: dict[str, Any] = {"node": "n1", "pid": 1, "gpus": 2, "started_at": 100.0}
    return WorkerRecord(task=task, **{**fields, **known})


def charge(task: str, start: float, end: float | None, **known: Any) -> Charge:
    fields: dict[str, Any] = {"state": TaskState.COMPLETED, "gpus": 2}
    elapsed_s = 0.0 if end is None else end - start
    return Charge(
        task=task, started_at=start, ended_at=end, **{"elapsed_s": elapsed_s, **fields, **known}
    )


def until(one: WorkerRecord) -> float:
    return one.ended_at or one.seen_at


def only(*workers: WorkerRecord, **known: Any) -> Line:
    (line,) = ledger(workers, until, **known)
    return line


WHOLE = worker(allocated_at=90.0, ready_at=110.0, training_s=50.0, ended_at=190.0, trials=3)


def test_a_life_starts_with_its_allocation_so_that_setup_is_startup() -> None:
    line = only(WHOLE)
    assert (line.allocated_s, line.startup_s, line.training_s, line.idle_s) == (100, 20, 50, 30)
    assert (line.known_from, line.trials) == ("worker", 3)


def test_what_a_worker_finishes_after_its_sigterm_is_not_charged() -> None:
    cancelled = worker(
        allocated_at=90.0, ready_at=95.0, ended_at=194.0, told="SIGTERM", told_at=190.0
    )
    assert only(cancelled).allocated_s == 100
    assert spent([cancelled], 500.0, 30.0) * 3600 == pytest.approx(2 * 100)
    warned = worker(allocated_at=90.0, ended_at=194.0, told="SIGUSR2", told_at=190.0)
    assert only(warned).allocated_s == 104


def test_squeue_knows_of_the_seconds_before_and_after_the_process() -> None:
    task = TaskRecord(
        task="7_0", state=TaskState.COMPLETED, started_at=88.0, ended_at=192.0, gpus=2
    )
    line = only(WHOLE, tasks=[task])
    assert (line.allocated_s, line.startup_s, line.known_from) == (104, 22, "squeue")


def test_accounting_has_the_last_word_but_says_nothing_of_what_runs() -> None:
    task = TaskRecord(task="7_0", state=TaskState.RUNNING, started_at=88.0, gpus=2)
    known = {"tasks": [task], "now": 200.0}
    assert only(WHOLE, charges=[charge("7_0", 88.0, 193.0)], **known).known_from == "sacct"
    line = only(WHOLE, charges=[charge("7_0", 88.0, None, elapsed_s=50.0)], **known)
    assert (line.known_from, line.allocated_s) == ("squeue", 112)


def test_a_suspended_second_is_not_charged() -> None:
    assert only(WHOLE, charges=[charge("7_0", 88.0, 193.0, elapsed_s=60.0)]).allocated_s == 60


def test_a_task_that_was_queued_again_has_a_line_a_life() -> None:
    first = worker(allocated_at=100.0, ready_at=101.0, seen_at=120.0)
    second = worker(allocated_at=126.0, started_at=127.0, restarts=1, life=2, ended_at=150.0)
    charges = [charge("7_0", 99.0, 121.0, state=TaskState.REQUEUED), charge("7_0", 125.0, 151.0)]
    lines = ledger([first, second], until, charges=charges)
    assert [(line.allocated_s, line.known_from) for line in lines] == [(22, "sacct"), (26, "sacct")]
    assert [line.allocated_s for line in ledger([first, second], until)] == [20, 24]


def test_workers_that_were_started_again_in_one_allocation_are_one_line() -> None:
    first = worker(allocated_at=90.0, ready_at=110.0, training_s=5.0, seen_at=120.0)
    second = worker(
        allocated_at=90.0, started_at=122.0, ready_at=125.0, training_s=20.0, life=2, ended_at=150.0
    )
    line = only(first, second)
    assert (line.allocated_s, line.startup_s, line.training_s) == (60, 23, 25)


def test_the_trial_that_runs_is_training_too() -> None:
    busy = worker(ready_at=100.0, training_s=5.0, trial_at=120.0, seen_at=150.0)
    assert only(busy).training_s == 35


def test_what_a_worker_does_after_slurm_has_cut_it_off_is_not_charged() -> None:
    line = only(WHOLE, charges=[charge("7_0", 90.0, 130.0)])
    assert (line.allocated_s, line.startup_s, line.training_s, line.idle_s) == (40, 20, 20, 0)


def test_a_job_whose_setup_failed_is_allocated_though_no_worker_signed_on() -> None:
    lines = ledger([WHOLE], until, charges=[charge("7_1", 90.0, 95.0, state=TaskState.FAILED)])
    assert len(lines) == 2
    lost = next(line for line in lines if line.task == "7_1")
    assert (lost.allocated_s, lost.startup_s, lost.gpus) == (5, 5, 2)
    assert lost.reason == "no worker signed on"


def test_an_array_of_which_no_worker_signed_on_had_the_gpus_of_the_others() -> None:
    lines = ledger([WHOLE], until, charges=[charge("8_0", 90.0, 115.0, gpus=None)])
    assert [(line.task, line.gpus) for line in lines] == [("7_0", 2), ("8_0", 2)]
    assert total(lines, [charge("8_0", 90.0, 115.0, gpus=None)]).charged == pytest.approx(50 / 3600)


def test_a_site_that_counts_no_gpus_takes_the_workers_word() -> None:
    lines = ledger([WHOLE], until, charges=[charge("7_0", 90.0, 190.0, gpus=None)])
    hours = total(lines, [charge("7_0", 90.0, 190.0, gpus=None)])
    assert hours.allocated == hours.charged == pytest.approx(200 / 3600)
    assert not hours.disputed


def test_what_accounting_does_not_know_is_disputed() -> None:
    lines = ledger([WHOLE], until)
    assert total(lines, []).disputed
    assert not total(lines).disputed
    assert not total(lines, [charge("7_0", 90.0, 189.5)]).disputed
    assert total(lines, [charge("7_0", 90.0, 185.0)]).disputed


def test_a_worker_that_is_silent_is_counted_for_a_lease_longer() -> None:
    hour = [worker(gpus=1, started_at=0.0, seen_at=3600.0)]
    assert spent(hour, 3600.0, 60.0) == 1
    assert spent(hour, 3630.0, 60.0) == pytest.approx(1 + 30 / 3600)
    assert spent(hour, 1e9, 60.0) == pytest.approx(1 + 60 / 3600)
    assert spent(hour, 0.0, 60.0) == 1  # a clock behind ours


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(10, 300), st.booleans(), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_every_allocation_is_one_line_whoever_knows_of_it(
    given_: list[tuple[int, int, bool, bool]],
) -> None:
    at, workers, charges = 1000.0, [], []
    lives: dict[int, int] = {}
    for index, seconds, signed, charged in given_:
        lives[index] = lives.get(index, -1) + 1
        task, end = f"7_{index}", at + seconds
        if signed:
            times = {"allocated_at": at, "started_at": at + 1, "ended_at": end}
            workers.append(worker(task, restarts=lives[index], **times))
        if charged:
            charges.append(charge(task, at, end))
        at = end + 20
    lines = ledger(workers, until, charges=charges)
    known = [
        any(c for i, _, _, c in given_[place:] if i == one[0]) for place, one in enumerate(given_)
    ]
    # Of what came before a life that accounting knows, it knows everything.
    expected = sum(
        seconds
        for (_, seconds, signed, charged), is_settled in zip(given_, known, strict=True)
        if charged or (signed and not is_settled)
    )
    assert sum(line.allocated_s for line in lines) == pytest.approx(expected)
    assert all(min(line.idle_s, line.startup_s, line.training_s) >= 0 for line in lines)


def test_a_life_whose_start_slurm_forgot_is_not_counted_twice() -> None:
    first = charge("7_0", 20.0, 80.0)
    line = only(WHOLE, charges=[charge("7_0", 104.0, 192.0)])
    assert (line.allocated_s, line.known_from, line.trials) == (88, "sacct", 3)
    both = ledger([WHOLE], until, charges=[first, charge("7_0", 104.0, 192.0)])
    assert [line.reason for line in both] == ["no worker signed on", None]


def test_a_start_that_slurm_forgot_and_did_again_is_charged_once() -> None:
    """As seen: a controller that was killed twice started a task three times, and charged one."""
    lives = [
        worker("1_4", life=1, allocated_at=1524.0, told="SIGTERM", told_at=1557.8, ended_at=1558.9),
        worker("1_4", life=2, restarts=1, allocated_at=1577.0, ended_at=1596.5),
        worker("1_4", life=3, restarts=1, allocated_at=1583.0, ended_at=1597.3),
        worker("1_4", life=4, restarts=1, allocated_at=1599.0, ended_at=1653.0),
    ]
    charges = [charge("1_4", 1524.0, 1557.0), charge("1_4", 1599.0, 1653.0)]
    lines = ledger(lives, until, charges=charges)
    assert [(line.allocated_s, line.known_from) for line in lines] == [
        *[(33, "sacct"), (0, "sacct"), (0, "sacct"), (54, "sacct")]
    ]
    assert not total(lines, charges).disputed
    late = ledger(lives, until, charges=charges[:1])  # accounting may not have heard of it yet
    assert sum(line.allocated_s for line in late) == pytest.approx(33 + 19.5 + 14.3 + 54)


def test_a_worker_that_ends_as_its_task_starts_anew_is_not_counted_beside_it() -> None:
    orphan = worker(allocated_at=100.0, ended_at=126.0)
    again = worker(allocated_at=128.0, restarts=1, life=2, ended_at=180.0)
    charges = [charge("7_0", 127.0, 181.0)]
    lines = ledger([orphan, again], until, charges=charges)
    assert [line.allocated_s for line in lines] == [0, 54]


def test_what_accounting_has_settled_is_not_asked_of_squeue() -> None:
    task = TaskRecord(
        task="7_0", state=TaskState.CANCELLED, started_at=91.0, ended_at=260.0, gpus=2
    )
    line = only(WHOLE, tasks=[task], charges=[charge("7_0", 90.0, 192.0)])
    assert (line.allocated_s, line.known_from) == (102, "sacct")
