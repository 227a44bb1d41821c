"""A worker that is killed, alone on its study: the task's next life goes on with its trial."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from servers import wait_for
from workplace import is_alive

from hpoctl.record import WorkerRecord
from integration.conftest import MakeSweep, Sweep

ONE_WORKER = {"mode": "sequential", "budget": {"trials": 3}}


def at_work(sweep: Sweep, life: int = 1) -> WorkerRecord:
    """The one worker, once this life of it runs a trial."""
    found: list[WorkerRecord] = []

    def runs() -> bool:
        workers = sweep.summary().workers
        found[:] = [w for w in workers if w.life == life and w.trial is not None]
        return bool(found)

    wait_for(runs, 60, f"life {life} runs a trial: {sweep.run_dir.path}")
    return found[0]


def log_of(sweep: Sweep, worker: WorkerRecord) -> str:
    return (sweep.run_dir.logs / f"{worker.task}.log").read_text()


@pytest.mark.parametrize(
    ("backend", "storage"), [("local", "journal"), ("local", "sqlite"), ("slurm", "postgresql")]
)
def test_the_trial_of_a_killed_worker_runs_again_within_seconds(
    make_sweep: MakeSweep, backend: str, storage: str
) -> None:
    sweep = make_sweep(
        storage,
        backend=backend,
        objective_args={"seconds": 2, "steps": 2},
        resources={"time": "5m", "gpus": 0, "sbatch": ["--nodelist=n1"]},
        **ONE_WORKER,
    )
    sweep.submit()
    first = at_work(sweep)
    os.kill(first.pid, signal.SIGKILL)
    killed_at = time.time()
    second = at_work(sweep, life=2)
    assert (second.task, second.trial) == (first.task, first.trial)
    assert second.started_at - killed_at < 10
    sweep.await_finished(3)
    assert [trial.state for trial in sweep.trials()] == [TrialState.COMPLETE] * 3
    assert [attrs.get("lost") for attrs in sweep.attrs()] == [1, None, None]
    assert "was ended by SIGKILL" in log_of(sweep, first)

    dead, alive = sweep.summary().workers
    assert dead.reason == "gone without a word"
    assert first.started_at <= (dead.ended_at or 0) <= killed_at <= alive.started_at


def test_gpu_hours_of_a_killed_life_are_counted_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "journal",
        backend="local",
        objective_args={"seconds": 3, "steps": 1},
        lease="2s",
        resources={"time": "5m", "gpus": 1},
        **ONE_WORKER,
    )
    sweep.submit()
    os.kill(at_work(sweep).pid, signal.SIGKILL)
    at_work(sweep, life=2)
    began = sweep.summary().workers[0].allocated_at or 0.0
    running = sweep.status()["gpu_hours"]["allocated"]
    assert running <= (time.time() - began) / 3600
    sweep.await_finished(3)
    ended = sweep.summary().workers[1].ended_at or 0.0
    hours = sweep.status()["gpu_hours"]
    assert hours["allocated"] == pytest.approx((ended - began) / 3600)
    assert hours["training"] + hours["startup"] <= hours["allocated"]


def test_a_worker_that_is_killed_before_its_first_trial_twice_is_left_alone(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep("journal", backend="local", objective="deadly", **ONE_WORKER)
    (sweep.hpoctl.folder / "deadly.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    sweep.submit()
    wait_for(lambda: "it is not started again" in logs(sweep), 60, "the task gives up")
    assert [worker.life for worker in sweep.summary().workers] == [1, 2]
    assert {trial.state for trial in sweep.trials()} == {TrialState.WAITING}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def logs(sweep: Sweep) -> str:
    return "".join(path.read_text() for path in sweep.run_dir.logs.glob("*.log"))


@pytest.mark.parametrize("backend", ["local", "slurm"])
def test_cancel_ends_the_worker_and_its_shell(make_sweep: MakeSweep, backend: str) -> None:
    sweep = make_sweep(
        "postgresql" if backend == "slurm" else "journal",
        backend=backend,
        objective_args={"seconds": 60, "steps": 1},
        **ONE_WORKER,
    )
    sweep.submit()
    worker = at_work(sweep)
    shell = parent(worker.pid)
    assert Path(f"/proc/{shell}/comm").read_text() in ("bash\n", "slurm_script\n")
    sweep.ask("cancel", "a-study")
    wait_for(lambda: not is_alive(worker.pid) and not is_alive(shell), 60, "both have ended")
    assert len(sweep.summary().workers) == 1
    assert "it is started again" not in logs(sweep)


def test_a_worker_does_not_outlive_its_shell(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "journal", backend="local", objective_args={"seconds": 60, "steps": 1}, **ONE_WORKER
    )
    sweep.submit()
    worker = at_work(sweep)
    os.kill(parent(worker.pid), signal.SIGKILL)
    wait_for(lambda: not is_alive(worker.pid), 20, "the worker has ended")
