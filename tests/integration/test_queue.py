"""A study that gets more trials while its workers run on Slurm, and one whose trials failed."""

from __future__ import annotations

from optuna.trial import TrialState
from servers import wait_for

from integration.conftest import MakeSweep

FLAKY = """
from pathlib import Path

def objective(trial):
    if Path("broken").exists() and trial.number % 2:
        raise ValueError("broken")
    trial.report(1.0, 1)
    trial.report(2.0, 2)
    return 1.0
"""


def test_workers_that_run_take_up_what_an_extend_queues(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=2,
        budget={"trials": 6},
        objective_args={"seconds": 1.5, "steps": 2},
    )
    ids = sweep.submit()
    wait_for(lambda: sweep.finished() >= 1, 60, "a first trial has ended")
    extended = sweep.ask_json("extend", "a-study", "--trials", "+4")
    assert extended["budget"]["trials"] == 10
    sweep.await_finished(10)
    sweep.assert_each_ran_once(10)
    assert len(sweep.summary().workers) == 2
    sweep.await_tasks(ids, 2)

    more = sweep.ask_json("extend", "a-study", "--trials", "12", "--workers", "4")
    assert [array["tasks"] for array in more["arrays"]] == [2]
    sweep.await_finished(12)
    sweep.assert_each_ran_once(12)
    assert sweep.status()["budget"]["trials"] == 12


def test_failed_trials_are_repeated_by_attached_workers(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("mariadb", mode="async", workers=2, objective="mine", budget={"trials": 6})
    (sweep.hpoctl.folder / "mine.py").write_text(FLAKY)
    (sweep.hpoctl.folder / "broken").touch()
    sweep.submit()
    sweep.await_finished(6)
    (sweep.hpoctl.folder / "broken").unlink()
    retried = sweep.ask_json("retry", "a-study", "--workers", "8")
    assert [trial["repeats"] for trial in retried["queued"]] == [1, 3, 5]
    assert [array["tasks"] for array in retried["arrays"]] == [3]
    sweep.await_finished(9)
    states = [trial.state for trial in sweep.trials()]
    assert states.count(TrialState.COMPLETE) == 6
    assert [trial.params for trial in sweep.trials()[6:]] == [
        trial.params for trial in sweep.trials()[1:6:2]
    ]
    assert sweep.status()["budget"]["trials"] == 6
