"""The ledger of GPU-hours beside a real slurmdbd's, and the budgets that end a study."""

from __future__ import annotations

import csv
import os
import signal
from typing import Any

import pytest
from servers import Slurm, wait_for

from integration.conftest import MakeSweep, Sweep

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
