"""Every mode on a real Slurm with real databases: exactly the budget, in the promised arrays."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from optuna.trial import TrialState
from servers import wait_for

from integration.conftest import MakeSweep

MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "rounds": ("postgresql", {"mode": "batch", "trials_per_task": 3, "workers": 4}),
    "throttled": (
        "postgresql",
        {"mode": "batch", "trials_per_task": 3, "workers": 3, "sampler": "random"},
    ),
    "sequential": ("postgresql", {"mode": "sequential"}),
    "async": ("postgresql", {"mode": "async", "workers": 4}),
    "async-mariadb": ("mariadb", {"mode": "async", "workers": 4}),
}


@pytest.mark.parametrize("case", MODES)
def test_the_budget_runs_once_in_the_arrays_that_check_promised(
    make_sweep: MakeSweep, case: str
) -> None:
    storage, changes = MODES[case]
    sweep = make_sweep(storage, **changes)
    planned = sweep.ask_json("check", "sweep.yaml")["arrays"]
    ids = sweep.submit()
    sweep.await_finished(24)
    sweep.assert_each_ran_once(24)

    assert len(ids) == len(planned) == (2 if case == "rounds" else 1)
    tasks = sweep.await_tasks(ids, sum(array["tasks"] for array in planned))
    by_array = [[task for task in tasks if task.job == id_] for id_ in ids]
    assert [len(found) for found in by_array] == [array["tasks"] for array in planned]
    assert {task.name for task in tasks} == {f"hpo-a-study-{array['name']}" for array in planned}
    for earlier, later in itertools.pairwise(by_array):
        assert max(task.end or 0 for task in earlier) <= min(task.start or 0 for task in later)
    at_once = planned[0]["at_once"] or len(tasks)
    for task in tasks:
        starts = [other for other in tasks if _overlap(other.start, other.end, task.start)]
        assert len(starts) <= at_once
    workers = sweep.summary().workers
    assert {worker.task for worker in workers} == {f"{task.job}_{task.index}" for task in tasks}
    if planned[0]["trials_per_task"]:
        assert {worker.trials for worker in workers} == {3}


def _overlap(start: float | None, end: float | None, moment: float | None) -> bool:
    return start is not None and end is not None and moment is not None and start <= moment < end


def test_workers_attached_meanwhile_share_the_budget(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=4,
        budget={"trials": 48},
        objective_args={"seconds": 1.5, "steps": 2},
    )
    sweep.submit()
    wait_for(lambda: sweep.finished() >= 1, 60, "a first trial has ended")
    attached = sweep.ask_json("workers", "add", "a-study", "-n", "4")
    assert [array["tasks"] for array in attached["arrays"]] == [4]

    wait_for(lambda: len(sweep.summary().workers) > 4, 60, "an attached worker has begun")
    status = sweep.status()
    assert sum(status["counts"].values()) == 48
    assert set(status["counts"]) == {"waiting", "running", "complete", "pruned", "failed"}
    assert status["budget"] == {"trials": 48, "gpu_hours": None}
    assert set(status["gpu_hours"]) == {"allocated", "training", "startup", "idle", "charged"}
    assert set(status["best"]) >= {"number", "values", "params"}
    assert (status["study"], status["mode"], status["backend"]) == ("a-study", "async", "slurm")
    assert status["storage"].startswith("postgresql://hpo:***@127.0.0.1:")
    assert len(status["workers"]) == 8
    known = {worker.task for worker in sweep.summary().workers}
    for worker in status["workers"]:
        assert {"task", "slurm_state", "node", "trial", "reason"} <= set(worker)
        if worker["task"] in known:
            assert worker["slurm_state"] == "RUNNING"
            assert worker["node"] in ("n1", "n2")

    sweep.await_finished(48)
    sweep.assert_each_ran_once(48)
    assert len(sweep.summary().workers) == 8
    ended = sweep.status()
    assert ended["counts"]["complete"] == 48
    assert {worker["slurm_state"] for worker in ended["workers"]} == {"COMPLETED"}
    assert ended["eta_s"] in (0, None)
    values = [trial.values[0] for trial in sweep.trials()]
    assert ended["best"]["values"] == [min(values)]
    assert ended["best"]["number"] == values.index(min(values))


def test_drained_workers_leave_and_later_ones_finish_the_rest(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql", mode="async", workers=3, objective_args={"seconds": 0.8, "steps": 2}
    )
    ids = sweep.submit()
    wait_for(lambda: sum(w.trials > 0 for w in sweep.summary().workers) == 3, 60, "all at work")
    sweep.ask("workers", "drain", "a-study")
    sweep.await_workers_left()
    states = [trial.state for trial in sweep.trials()]
    assert set(states) == {TrialState.COMPLETE, TrialState.WAITING}
    reasons = {worker.reason for worker in sweep.summary().workers}
    assert reasons == {"told to by 'hpoctl workers drain'"}
    sweep.await_tasks(ids, 3)

    sweep.ask("workers", "add", "a-study", "-n", "4")
    sweep.await_finished(24)
    sweep.assert_each_ran_once(24)
    nothing = sweep.ask_json("workers", "add", "a-study", "-n", "4")
    assert nothing["arrays"] == []


def test_a_task_that_slurm_requeues_runs_its_trial_again(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="sequential",
        budget={"trials": 1},
        objective_args={"seconds": 8, "steps": 1},  # longer than the cluster's KillWait
    )
    ids = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: any(w.trial == 0 for w in sweep.summary().workers), 60, "trial 0 runs")
    slurm.ask("scontrol", "requeue", f"{ids[0]}_0")
    # Slurm holds it back for two minutes, unless it is told not to.
    wait_for(lambda: "BeginTime" in slurm.ask("squeue", "-h", "-o", "%r"), 60, "requeued")
    slurm.ask("scontrol", "update", f"JobId={ids[0]}_0", "StartTime=now")
    sweep.await_finished(1)
    assert [trial.state for trial in sweep.trials()] == [TrialState.COMPLETE]
    assert [attrs["attempt"] for attrs in sweep.attrs()] == [2]
    assert [attrs.get("lost", 0) for attrs in sweep.attrs()] == [0], "it was no victim of its trial"
