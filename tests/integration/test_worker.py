"""A worker among signals and objectives that die: a trial may end badly, the worker goes on."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import TrialState
from servers import wait_for

from integration.conftest import MakeSweep, Sweep

OBJECTIVE = """
import os
import signal
import subprocess
import sys
import time


def fragile(trial):
    print("trial", trial.number, "begins")
    if trial.number == 1:
        raise ValueError("the answer is 42")
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.number == 3:
        sys.exit(3)
    if trial.number == 4:
        os._exit(0)
    if trial.number == 5:
        return float("nan")
    if trial.number == 6:
        return "a word"
    return 1.0


def slow(trial):
    for step in (1, 2, 3, 4):
        time.sleep(0.4)
        trial.report(1.0, step)
    return float(trial.number)


def leaves_a_process(trial):
    started = subprocess.Popen(["sleep", "600"])
    (trial.dir / "pid").write_text(str(started.pid))
    return 1.0
"""


def with_objective(sweep: Sweep) -> Sweep:
    """The objectives above, in the folder that the sweep is submitted from."""
    (sweep.hpoctl.folder / "mine.py").write_text(OBJECTIVE)
    return sweep


def finished_by_one_worker(sweep: Sweep) -> bool:
    return any(worker.trials > 0 and worker.trial is not None for worker in sweep.summary().workers)


def assert_left_after_its_trial(sweep: Sweep, reason: str) -> None:
    """The one worker left for `reason`; no trial was cut short, and some still wait."""
    states = [trial.state for trial in sweep.trials()]
    assert set(states) == {TrialState.COMPLETE, TrialState.WAITING}
    assert [worker.reason for worker in sweep.summary().workers] == [reason]
    complete = [trial for trial in sweep.trials() if trial.state is TrialState.COMPLETE]
    assert all(len(trial.intermediate_values) == 4 for trial in complete)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_lets_the_running_trial_finish(
    make_sweep: MakeSweep, number: signal.Signals
) -> None:
    sweep = with_objective(make_sweep("journal", backend="local", objective="mine:slow"))
    sweep.submit()
    wait_for(lambda: finished_by_one_worker(sweep), 60, "a second trial runs")
    os.kill(sweep.summary().workers[0].pid, number)
    sweep.await_workers_left()
    assert_left_after_its_trial(sweep, f"told to by {number.name}")


def test_the_warning_of_slurm_lets_the_running_trial_finish(make_sweep: MakeSweep) -> None:
    sweep = with_objective(make_sweep("postgresql", mode="sequential", objective="mine:slow"))
    ids = sweep.submit()
    wait_for(lambda: finished_by_one_worker(sweep), 60, "a second trial runs")
    assert sweep.slurm is not None
    sweep.slurm.ask("scancel", "--batch", "--signal=USR2", f"{ids[0]}_0")
    sweep.await_workers_left()
    assert_left_after_its_trial(sweep, "told to by SIGUSR2")
    sweep.await_tasks(ids, 1)


def test_a_trial_that_fails_does_not_end_its_worker(make_sweep: MakeSweep) -> None:
    sweep = with_objective(
        make_sweep("sqlite", backend="local", objective="mine:fragile", budget={"trials": 9})
    )
    sweep.submit()
    sweep.await_finished(9)
    trials = sweep.trials()
    failed = {t.number: t.user_attrs["error"] for t in trials if t.state is TrialState.FAIL}
    assert set(failed) == {1, 2, 3, 4, 5, 6}
    assert {t.number for t in trials if t.state is TrialState.COMPLETE} == {0, 7, 8}
    assert failed[1].startswith("Traceback (most recent call last)")
    assert 'raise ValueError("the answer is 42")' in failed[1]
    assert failed[1].rstrip().endswith("ValueError: the answer is 42")
    assert "SIGKILL" in failed[2]
    assert "SystemExit: 3" in failed[3]
    assert "exit code 0 and no result" in failed[4]
    assert "NaN" in failed[5]
    assert "'a word'" in failed[6]
    assert [worker.trials for worker in sweep.summary().workers] == [9]

    shown = sweep.ask_json("trials", "a-study", "--state", "failed")
    assert [trial["number"] for trial in shown] == [1, 2, 3, 4, 5, 6]
    log = sweep.ask("logs", "a-study", "1")
    assert log.startswith("trial 1 begins\nTraceback")
    assert "the answer is 42" in log
    both = sweep.ask("logs", "a-study", "1,3")
    assert both.startswith(f"==> trial 1 <==\n{log}==> trial 3 <==\n")


def test_what_a_trial_started_ends_with_it(make_sweep: MakeSweep) -> None:
    sweep = with_objective(
        make_sweep("journal", backend="local", objective="mine:leaves_a_process")
    )
    sweep.submit()
    sweep.await_finished(24)
    for number in range(24):
        pid = (sweep.run_dir.trial(number) / "pid").read_text()
        wait_for(partial(_has_ended, pid), 10, f"process {pid} has ended")


def _has_ended(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] != [b"sleep", b"600"]
    except OSError:
        return True
