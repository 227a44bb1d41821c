"""The ledger of GPU-hours beside a real slurmdbd's, and the budgets that end a study."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import Slurm, wait_for

from hpoctl import hours
from hpoctl.record import WorkerId, WorkerRecord
from integration.conftest import MakeSweep, Sweep
from integration.taken import by_preemption, by_requeue, by_scancel, by_walltime

QUICK: dict[str, Any] = {"mode": "async", "lease": "4s"}
GPUS = {"time": "5m", "cpus": 1, "gpus": 2}


def charged(slurm: Slurm, arrays: list[str]) -> float:
    """GPU-hours of all lives of all tasks, as accounting has them."""
    text = slurm.ask("sacct", "-DXnP", "-o", "ElapsedRaw,AllocTRES", "-j", ",".join(arrays))
    rows = [line.split("|") for line in text.splitlines() if "gres/gpu=" in line]
    gpus = [int(tres.partition("gres/gpu=")[2].split(",")[0]) for _, tres in rows]
    return sum(int(row[0]) * n for row, n in zip(rows, gpus, strict=True)) / 3600


def await_accounted(slurm: Slurm, arrays: list[str], lives: int) -> None:
    """Until accounting has an end of so many lives; it is late by seconds."""

    def accounted() -> bool:
        text = slurm.ask("sacct", "-DXnP", "-o", "End", "-j", ",".join(arrays))
        return [end.isdigit() for end in text.splitlines()] == [True] * lives

    wait_for(accounted, 60, "accounting knows every end")


def kill(sweep: Sweep, task: str) -> None:
    """SIGKILLs the last worker of a task."""
    pids = {worker.task: worker.pid for worker in sweep.summary().workers}
    os.kill(pids[task], signal.SIGKILL)


def test_the_ledger_agrees_with_accounting_over_requeues_cancels_and_kills(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=4,
        budget={"trials": 30},
        objective_args={"seconds": 3, "steps": 1},
        resources={**GPUS, "setup": ["sleep 2"]},
    )
    (array,) = arrays = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: sum(w.trial is not None for w in sweep.summary().workers) == 4, 60, "4 work")
    slurm.ask("scontrol", "requeue", f"{array}_0")
    slurm.ask("scancel", f"{array}_1")
    kill(sweep, f"{array}_2")
    wait_for(lambda: "BeginTime" in slurm.ask("squeue", "-ho%r", f"-j{array}"), 60, "requeued")
    slurm.ask("scontrol", "update", f"JobId={array}_0", "StartTime=now")
    added = sweep.ask_json("workers", "add", "a-study", "-n", "2")["arrays"]
    arrays += [each["id"] for each in added]
    wait_for(lambda: sweep.finished() == 30, 120, "all trials ended")
    sweep.await_workers_left()
    await_accounted(slurm, arrays, lives=4 + 1 + 2)  # one was queued again, two attached

    hours = sweep.ask_json("status", "a-study", "--repair")["gpu_hours"]
    truth = charged(slurm, arrays)
    assert hours["allocated"] == pytest.approx(truth, rel=0.01)
    assert hours["charged"] == pytest.approx(truth, rel=1e-9)
    parts = hours["training"] + hours["startup"] + hours["idle"]
    assert parts == pytest.approx(hours["allocated"])
    assert hours["startup"] * 3600 >= 2 * 2 * 5  # as many lives slept two seconds with two GPUs
    sweep.ask("report", "a-study")
    with (sweep.run_dir.report / "gpu_hours.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["known_from"] for row in rows} == {"sacct"}
    whole = sum(int(row["gpus"]) * float(row["allocated_s"]) for row in rows) / 3600
    assert whole == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (by_scancel, "CANCELLED"),
        (by_requeue, "REQUEUED"),
        (by_preemption, "PREEMPTED"),
        (by_walltime, "TIMEOUT"),
    ],
)
def test_what_a_worker_finishes_after_slurm_ended_its_task_is_not_in_its_own_sum(
    make_sweep: MakeSweep, end: Callable[[Slurm, str], None], state: str
) -> None:
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=1,
        budget={"trials": 100},
        objective_args={"seconds": 4, "steps": 1},  # less than KillWait
        resources={**GPUS, "gpus": 1},
    )
    (array,) = arrays = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None

    def has_just_begun() -> bool:
        begun = [worker.trial_at for worker in sweep.summary().workers if worker.trials > 1]
        return bool(begun) and begun[0] is not None and time.time() - begun[0] < 1.5

    wait_for(has_just_begun, 60, "a trial has just begun")
    end(slurm, f"{array}_0")
    first = sweep.summary().workers[0].id
    wait_for(lambda: _life(sweep, first).ended_at is not None, 60, "the worker left")
    slurm.ask("scancel", f"{array}_0")  # where it was queued again
    wait_for(lambda: _first_life(slurm, arrays)[0] == state, 60, f"accounting says {state}")
    worker, (_, charged_s) = _life(sweep, first), _first_life(slurm, arrays)
    own_s = hours.spent([worker], time.time(), 0.0) * 3600
    assert own_s == pytest.approx(charged_s, abs=1.7)  # accounting knows whole seconds
    if state == "CANCELLED":
        assert (worker.ended_at or 0) - (worker.told_at or 0) > 2, "it finished its trial"
    sweep.ask("status", "a-study", "--repair")
    total = sweep.status()["gpu_hours"]
    assert total["allocated"] == pytest.approx(charged(slurm, arrays), rel=0.01)


@pytest.fixture
def grace(slurm: Slurm) -> Iterator[float]:
    """Seconds that a job may go on for when it is preempted."""
    seconds = 9
    change = ("sacctmgr", "-i", "modify", "qos", "normal", "set")
    slurm.ask(*change, f"GraceTime={seconds}")
    yield float(seconds)
    slurm.ask(*change, "GraceTime=0")


def test_the_grace_before_a_preemption_is_worked_in_and_charged_and_counted(
    make_sweep: MakeSweep, grace: float
) -> None:
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=1,
        budget={"trials": 100},
        objective_args={"seconds": 1, "steps": 1},
        resources={**GPUS, "gpus": 1},
    )
    (array,) = arrays = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: any(w.trials for w in sweep.summary().workers), 60, "a trial has ended")
    by_preemption(slurm, f"{array}_0")
    preempted_at = time.time()
    first = sweep.summary().workers[0].id
    wait_for(lambda: _life(sweep, first).ended_at is not None, 60, "the worker left")
    slurm.ask("scancel", f"{array}_0")  # where it was queued again
    wait_for(lambda: _first_life(slurm, arrays)[0] == "PREEMPTED", 60, "accounting knows the end")
    worker, (_, charged_s) = _life(sweep, first), _first_life(slurm, arrays)
    assert (worker.told_at or 0) > preempted_at + grace - 1, "Slurm told it at the grace's end"
    own_s = hours.spent([worker], time.time(), 0.0) * 3600
    assert own_s == pytest.approx(charged_s, abs=2.2)  # accounting knows whole seconds


def test_the_ledger_agrees_with_accounting_where_a_killed_slurmctld_forgot_an_end(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    """The task runs on in its eyes, and accounting moves an end that it had already."""
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=1,
        budget={"trials": 100},
        objective_args={"seconds": 1, "steps": 1},
        resources={**GPUS, "gpus": 1},
    )
    (array,) = arrays = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: any(w.trials for w in sweep.summary().workers), 60, "a trial has ended")
    _keep_state(slurm, f"{array}_0", tmp_path / "job_state")
    slurm.ask("scancel", f"{array}_0")
    await_accounted(slurm, arrays, lives=1)
    first_end = charged(slurm, arrays)
    assert _allocated(sweep) == pytest.approx(first_end)

    os.kill(int((slurm.folder / "run/slurmctld.pid").read_text()), signal.SIGKILL)
    shutil.copy(tmp_path / "job_state", slurm.folder / "state")
    slurm.restart("slurmctld")
    slurm.ask("scancel", f"{array}_0")  # unless it was missed on its node by now
    wait_for(lambda: charged(slurm, arrays) > first_end, 60, "accounting moved the end")
    wait_for(lambda: _allocated(sweep) == pytest.approx(charged(slurm, arrays)), 20, "told anew")


def _keep_state(slurm: Slurm, task: str, copy: Path) -> None:
    """A copy of what slurmctld would know of its jobs, a running task too, after a crash."""
    changed_at = time.time()
    slurm.ask("scontrol", "update", f"JobId={task}", "Comment=kept")
    file = slurm.folder / "state" / "job_state"

    def is_kept() -> bool:
        with suppress(FileNotFoundError):  # while it is being replaced
            if file.stat().st_mtime > changed_at:
                shutil.copy(file, copy)
                return True
        return False

    wait_for(is_kept, 60, "the state is saved")


def _allocated(sweep: Sweep) -> float:
    allocated: float = sweep.ask_json("status", "a-study", "--repair")["gpu_hours"]["allocated"]
    return allocated


def _life(sweep: Sweep, id_: WorkerId) -> WorkerRecord:
    return next(worker for worker in sweep.summary().workers if worker.id == id_)


def _first_life(slurm: Slurm, arrays: list[str]) -> tuple[str, float]:
    """How accounting says that the first life of the only task ended, and after how long."""
    columns = "State,ElapsedRaw,End"
    text = slurm.ask("sacct", "-DXnP", "-o", columns, "-j", ",".join(arrays)).splitlines()
    state, elapsed, end = text[0].split("|")
    return (state.split()[0], float(elapsed)) if end.isdigit() else ("", 0.0)


def test_jobs_whose_setup_fails_are_allocated_though_nobody_signed_on(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "journal", **QUICK, workers=2, resources={**GPUS, "setup": ["sleep 3", "false"]}
    )
    arrays = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: slurm.ask("squeue", "-h", f"-j{arrays[0]}", "-tR,PD") == "", 60, "all failed")
    await_accounted(slurm, arrays, lives=2)
    hours = sweep.ask_json("status", "a-study", "--repair")["gpu_hours"]
    assert hours["allocated"] == hours["startup"] == pytest.approx(charged(slurm, arrays))
    assert hours["allocated"] * 3600 >= 2 * 2 * 3


def test_a_budget_of_gpu_hours_ends_the_study_with_the_trials_that_run(
    make_sweep: MakeSweep,
) -> None:
    seconds, gpu_s = 2.0, 60.0
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=4,
        budget={"trials": 200, "gpu_hours": gpu_s / 3600},
        objective_args={"seconds": seconds, "steps": 1},
        resources=GPUS,
    )
    sweep.submit()
    wait_for(lambda: len(sweep.summary().workers) == 4, 60, "all signed on")
    sweep.await_workers_left()
    ended = sweep.status()
    assert ended["counts"]["running"] == 0
    assert {worker["reason"] for worker in ended["workers"]} == {"budget.gpu_hours is spent"}
    over_s = ended["gpu_hours"]["allocated"] * 3600 - gpu_s
    assert -2 <= over_s <= 4 * 2 * (seconds + 3)  # four trials that ran, and their workers' exits

    sweep.ask("workers", "add", "a-study", "-n", "2")
    wait_for(lambda: len(sweep.summary().workers) == 6, 60, "two more signed on")
    sweep.await_workers_left()
    late = sweep.summary().workers[-2:]
    assert {(w.trials, w.ready_at, w.reason) for w in late} == {
        (0, None, "budget.gpu_hours is spent")
    }
    assert "budget.gpu_hours is spent" in sweep.ask("status", "a-study")


@pytest.mark.parametrize("storage", ["mariadb", "journal"])
def test_a_study_that_ended_by_its_gpu_hours_goes_on_with_just_as_many_more(
    make_sweep: MakeSweep, storage: str
) -> None:
    seconds, first_s, more_s = 1.0, 30.0, 40.0
    sweep = make_sweep(
        storage,
        **QUICK,
        workers=2,
        budget={"trials": 500, "gpu_hours": first_s / 3600},
        objective_args={"seconds": seconds, "steps": 1},
        resources=GPUS,
    )
    sweep.submit()
    wait_for(lambda: len(sweep.summary().workers) == 2, 60, "both signed on")
    sweep.await_workers_left()
    extended = sweep.ask_json(
        "extend", "a-study", "--gpu-hours", f"+{more_s / 3600:.6f}", "--workers", "2"
    )
    assert extended["budget"]["gpu_hours"] * 3600 >= first_s + more_s - 0.1
    assert extended["notes"] == []
    wait_for(lambda: len(sweep.summary().workers) == 4, 60, "two more signed on")
    sweep.await_workers_left()
    ended = sweep.status()
    assert {worker["reason"] for worker in ended["workers"]} == {"budget.gpu_hours is spent"}
    over_s = ended["gpu_hours"]["allocated"] * 3600 - extended["budget"]["gpu_hours"] * 3600
    assert -2 <= over_s <= 4 * 2 * (seconds + 3)  # trials that ran, and their workers' exits
    assert ended["counts"]["complete"] == sum(w.trials for w in sweep.summary().workers)


def test_workers_that_run_go_on_by_a_budget_of_time_that_is_raised_meanwhile(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=1,
        budget={"trials": 200, "time": "40s"},
        objective_args={"seconds": 1, "steps": 1},
    )
    sweep.submit()
    wait_for(lambda: sweep.finished() >= 1, 60, "a first trial has ended")
    sweep.ask("extend", "a-study", "--time", "+15s")
    sweep.await_workers_left()
    (worker,) = sweep.summary().workers
    begun = sweep.run_dir.run().created_at
    assert worker.reason == "budget.time is spent"
    assert begun + 55 <= (worker.ended_at or 0) < begun + 55 + 1 + 5


def test_a_budget_of_time_ends_the_study_with_the_trials_that_run(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        **QUICK,
        workers=2,
        budget={"trials": 200, "time": "15s"},
        objective_args={"seconds": 2, "steps": 1},
    )
    sweep.submit()
    wait_for(lambda: len(sweep.summary().workers) == 2, 60, "both signed on")
    sweep.await_workers_left()
    workers = sweep.summary().workers
    assert {worker.reason for worker in workers} == {"budget.time is spent"}
    begun = sweep.run_dir.run().created_at
    assert all((worker.ended_at or 0) < begun + 15 + 2 + 3 for worker in workers)
