"""Lost trials on a real Slurm: a task id is not a life, and a suspended worker is not dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from servers import Slurm, wait_for

from integration.conftest import MakeSweep, Sweep
from integration.taken import by_administrator, by_preemption, by_requeue, by_scancel

ONE: dict[str, Any] = {
    "mode": "sequential",
    "budget": {"trials": 1},
    "objective_args": {"seconds": 12, "steps": 1},
}


def running(sweep: Sweep) -> int:
    """How many trials run in the study's eyes."""
    return sum(worker.trial is not None for worker in sweep.summary().workers)


def start(sweep: Sweep, trials: int = 1) -> tuple[Slurm, str]:
    (array,) = sweep.submit()
    wait_for(lambda: running(sweep) == trials, 60, f"{trials} trials run")
    assert sweep.slurm is not None
    return sweep.slurm, array


def repair(sweep: Sweep) -> dict[str, Any]:
    answer: dict[str, Any] = sweep.ask_json("status", sweep.study, "--repair")
    return answer


def test_a_trial_of_a_task_that_waits_again_is_lost_and_one_that_is_suspended_is_not(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        **{**ONE, "mode": "async", "workers": 2, "lease": "2s", "budget": {"trials": 2}},
    )
    slurm, array = start(sweep, 2)
    slurm.ask("scontrol", "suspend", f"{array}_0")
    slurm.ask("scontrol", "requeue", f"{array}_1")
    wait_for(lambda: "PENDING" in slurm.ask("squeue", "-ho%T", "-r", f"-j{array}"), 60, "requeued")
    lost = {w.task: w.trial for w in sweep.summary().workers}[f"{array}_1"]

    # As long as Slurm leaves the worker time to finish, its trial is not given away.
    wait_for(lambda: sweep.status()["lost"] == [lost], 60, "its processes have ended")
    seen = sweep.status()
    assert "repaired" not in seen
    assert seen["counts"]["running"] == 2
    done = repair(sweep)
    assert done["repaired"] == {"delivered": [], "returned": [lost], "unheard": []}
    assert (done["counts"]["running"], done["counts"]["waiting"], done["lost"]) == (1, 1, [])
    assert repair(sweep)["repaired"]["returned"] == []

    slurm.ask("scontrol", "resume", f"{array}_0")
    with suppress(AssertionError):  # it has started already
        slurm.ask("scontrol", "update", f"JobId={array}_1", "StartTime=now")
    sweep.await_finished(2)
    assert {trial.state for trial in sweep.trials()} == {TrialState.COMPLETE}
    assert sorted(attrs["attempt"] for attrs in sweep.attrs()) == [1, 2]
    second = [worker for worker in sweep.summary().workers if worker.task == f"{array}_1"]
    assert [worker.restarts for worker in second] == [0, 1]


def test_workers_return_the_trial_of_a_cancelled_task_before_its_lease_is_over(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=2,
        lease="12s",
        budget={"trials": 3},
        objective_args={"seconds": 14, "steps": 1},
    )
    slurm, array = start(sweep, 2)
    slurm.ask("scancel", "--signal=KILL", f"{array}_1")
    sweep.await_finished(3)
    assert {trial.state for trial in sweep.trials()} == {TrialState.COMPLETE}
    log = (sweep.run_dir.logs / f"{array}_0.log").read_text()
    assert "of workers that are gone wait again" in log


def test_a_slurmctld_that_starts_again_in_the_middle_of_a_repair_is_waited_for(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep("postgresql", **{**ONE, "objective_args": {"seconds": 30, "steps": 1}})
    slurm, array = start(sweep)
    slurm.ask("scancel", "--signal=KILL", f"{array}_0")
    wait_for(lambda: "RUNNING" not in slurm.ask("squeue", "-ho%T", f"-j{array}"), 30, "killed")
    os.kill(int((slurm.folder / "run/slurmctld.pid").read_text()), signal.SIGTERM)
    try:
        away = sweep.status()
        assert away["counts"]["running"] == 1
        assert away["lost"] == []
        assert away["batch_system"]["silence"]
    finally:
        slurm.start()
    assert repair(sweep)["repaired"]["returned"] == [0]


def test_a_node_that_fails_is_named_as_the_cause_and_its_trial_runs_again(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep("postgresql", **{**ONE, "objective_args": {"seconds": 6, "steps": 1}})
    slurm, array = start(sweep)
    node = slurm.ask("squeue", "-ho%N", f"-j{array}").strip()
    slurm.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        wait_for(lambda: "PENDING" in slurm.ask("squeue", "-ho%T", f"-j{array}"), 60, "requeued")
        assert repair(sweep)["repaired"]["returned"] == [0]
    finally:
        if "down" in slurm.ask("sinfo", "-hN", "-n", node, "-o%T"):  # else it is back already
            slurm.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    sweep.ask("workers", "add", sweep.study, "-n", "1")  # Slurm may hold a task that it requeued
    sweep.await_finished(1)
    (group,) = sweep.ask_json("failures", sweep.study)["failures"]
    assert group["cause"] == "node_fail"
    assert [trial.state for trial in sweep.trials()] == [TrialState.COMPLETE]


@pytest.mark.parametrize(
    ("take", "cause"),
    [
        (by_scancel, "cancelled"),
        (by_requeue, "requeued"),
        (by_preemption, "preempted"),
        (by_administrator, "node_fail"),
    ],
)
def test_a_worker_asks_why_it_was_told_to_go_and_the_policy_of_that_is_followed(
    make_sweep: MakeSweep, take: Callable[[Slurm, str], None], cause: str
) -> None:
    sweep = make_sweep(
        "postgresql",
        **{**ONE, "objective_args": {"seconds": 60, "steps": 1}},
        on={cause: "infeasible"},
        resources={"time": "5m", "cpus": 1, "grace": "1s"},
    )
    slurm, array = start(sweep)
    node = slurm.ask("squeue", "-ho%N", f"-j{array}").strip()
    began = "sacct", "-Xno", "State", "-j", array
    wait_for(lambda: "RUNNING" in slurm.ask(*began), 30, "accounting has heard of its start")
    try:
        take(slurm, f"{array}_0")
        sweep.await_finished(1)
    finally:
        slurm.ask("scancel", array)  # where it was queued again
        if "down" in slurm.ask("sinfo", "-hN", "-n", node, "-o%T"):
            slurm.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
    (group,) = sweep.ask_json("failures", sweep.study)["failures"]
    assert (group["cause"], group["count"]) == (cause, 1)
    assert "not done 1 s after SIGTERM" in group["last_line"]
    assert [trial.state for trial in sweep.trials()] == [TrialState.PRUNED]


def test_what_hpoctl_cancelled_waits_again_whatever_the_sweep_says_of_a_cancel(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        **{**ONE, "objective_args": {"seconds": 60, "steps": 1}},
        on={"cancelled": "fail"},
        resources={"time": "5m", "cpus": 1, "grace": "1s"},
    )
    start(sweep)
    sweep.ask("cancel", sweep.study)
    sweep.await_workers_left()
    assert sweep.status()["counts"]["waiting"] == 1
    (group,) = sweep.ask_json("failures", sweep.study)["failures"]
    assert group["cause"] == "cancelled"


@pytest.fixture
def counted_squeue(hpoctl: Any, tmp_path: Path) -> Path:
    """A squeue first on PATH that notes each call and then runs the real one."""
    folder, calls = tmp_path / "counting", tmp_path / "calls"
    folder.mkdir()
    calls.touch()
    program = folder / "squeue"
    program.write_text(
        f'#!/bin/sh\necho x >> {calls}\nPATH="{os.environ["PATH"]}" exec squeue "$@"\n'
    )
    program.chmod(0o755)
    hpoctl.env["PATH"] = f"{folder}:{os.environ['PATH']}"
    return calls


def test_slurm_is_asked_once_however_many_tasks_and_however_often(
    make_sweep: MakeSweep, counted_squeue: Path
) -> None:
    sweep = make_sweep("journal", mode="async", workers=6, budget={"trials": 12})
    sweep.submit()
    sweep.ask("workers", "add", sweep.study, "-n", "2")
    before = counted_squeue.read_text().count("x")  # none, if no trial waited any more
    counted_squeue.write_text("")
    for command in (["status"], ["workers", "list"], ["status", "--json"]):
        sweep.ask(*command, sweep.study)
    asked = counted_squeue.read_text().count("x")
    assert before + asked > 0, "else nothing is counted here"
    assert asked <= 3  # not eight, one a task; each answer is good for four seconds
    sweep.await_finished(12)


def test_a_study_that_is_submitted_within_a_job_is_no_part_of_that_job(
    make_sweep: MakeSweep, tmp_path: Path
) -> None:
    sweep = make_sweep("journal", mode="async", workers=2, budget={"trials": 4})
    slurm = sweep.slurm
    assert slurm is not None
    script = tmp_path / "outer.sh"
    python = f"{sys.executable} -m hpoctl"
    script.write_text(
        "#!/bin/bash\n#SBATCH --cpus-per-task=3 --mem=333M --time=7 --job-name=outer\n"
        "export SBATCH_TIMELIMIT=9 SBATCH_ARRAY_INX=0-99 SQUEUE_FORMAT=%i SQUEUE_STATES=FAILED\n"
        f"{python} submit sweep.yaml --json && {python} status a-study --json\n"
    )
    env = {**sweep.hpoctl.environ, **slurm.env}
    subprocess.run(
        ["sbatch", "--wait", "--output=outer.log", str(script)],
        cwd=sweep.hpoctl.folder,
        env=env,
        check=True,
        timeout=90,
        capture_output=True,
    )
    ids = [submission.id for submission in sweep.run_dir.submissions()]
    sweep.await_finished(4)
    columns = "-o", "JobID,ReqCPUS,Timelimit,JobName", "-j", ids[0]
    wait_for(lambda: len(slurm.ask("sacct", "-XnP", *columns).splitlines()) == 2, 60, "two tasks")
    rows = [line.split("|")[1:] for line in slurm.ask("sacct", "-XnP", *columns).splitlines()]
    assert rows == [["1", "00:05:00", "hpo-a-study-workers"]] * 2
    log = (sweep.hpoctl.folder / "outer.log").read_text()
    assert f'"task": "{ids[0]}_0"' in log  # the status within the job saw the tasks
