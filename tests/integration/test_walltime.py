"""Trials that are longer than an allocation, and allocations that are taken away: on real Slurm."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from optuna.trial import TrialState
from servers import wait_for

from integration.conftest import MakeSweep, Sweep

OBJECTIVE = """
import time
from hpoctl.trial import Checkpointed

checkpoints = True

def objective(trial):
    print("attempt", trial.attempt)
    saved = trial.dir / "saved"
    step = int(saved.read_text()) if trial.resumed else 0
    with (trial.dir / "attempts").open("a") as lines:
        lines.write(f"{trial.attempt} {step}\\n")
    while step < trial.args["steps"]:
        step += 1
        time.sleep(0.5)
        trial.report(1 / step, step)
        if trial.should_checkpoint():
            saved.write_text(str(step))
            raise Checkpointed
    return 1 / step
"""


def long_trial(make_sweep: MakeSweep, steps: int, **changes: Any) -> Sweep:
    """A sweep of one trial, of so many steps of half a second."""
    sweep = make_sweep(
        "postgresql",
        mode="sequential",
        objective="mine",
        objective_args={"steps": steps},
        budget={"trials": 1},
        **changes,
    )
    (sweep.hpoctl.folder / "mine.py").write_text(OBJECTIVE)
    return sweep


def attempts(sweep: Sweep) -> list[tuple[int, int]]:
    """Which attempts there were at trial 0, and from which step each began."""
    lines = (sweep.run_dir.trial(0) / "attempts").read_text().splitlines()
    return [(int(attempt), int(step)) for attempt, step in map(str.split, lines)]


def test_a_trial_longer_than_its_walltime_goes_on_in_the_next_link_of_the_chain(
    make_sweep: MakeSweep,
) -> None:
    sweep = long_trial(
        make_sweep,
        steps=100,
        checkpoints=True,
        estimate={"trial": "55s", "startup": "5s"},
        resources={"time": "1m", "warning": "20s"},
    )
    ids = sweep.submit()
    assert len(ids) == 2, "by the estimate"
    sweep.await_finished(1, deadline_s=240)
    (trial,) = sweep.trials()
    assert trial.state is TrialState.COMPLETE
    assert trial.intermediate_values == {step: 1 / step for step in range(1, 101)}
    (first, second) = attempts(sweep)
    assert first == (1, 0)
    assert second[0] == 2 and 20 < second[1] < 100
    reasons = [worker.reason for worker in sweep.summary().workers]
    assert "s of walltime left" in str(reasons[0])
    assert reasons[1] == "no trial waits"
    sweep.await_tasks(ids, 2)  # Slurm had to end neither
    assert not sweep.attrs()[0].get("lost")


def test_a_trial_whose_task_is_queued_again_goes_on_from_where_it_saved_itself(
    make_sweep: MakeSweep,
) -> None:
    held = {"time": "5m", "cpus": 1, "sbatch": ["--hold"]}
    sweep = long_trial(make_sweep, steps=12, resources=held)
    (id_,) = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    with subprocess.Popen(
        [sys.executable, "-m", "hpoctl", "logs", "a-study", "0", "-f"],
        cwd=sweep.hpoctl.folder,
        env=sweep.hpoctl.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stderr is not None
        assert "trial 0 has not started: waiting" in follower.stderr.readline()
        slurm.ask("scontrol", "release", id_)
        wait_for(lambda: len(_steps(sweep)) > 2, 60, "trial 0 has reported")
        slurm.ask("scontrol", "requeue", f"{id_}_0")
        # Slurm holds it back for two minutes, unless it is told not to.
        wait_for(lambda: "BeginTime" in slurm.ask("squeue", "-h", "-o", "%r"), 60, "requeued")
        slurm.ask("scontrol", "update", f"JobId={id_}_0", "StartTime=now")
        sweep.await_finished(1)
        assert follower.communicate(timeout=30)[0].splitlines() == ["attempt 1", "attempt 2"]
    (trial,) = sweep.trials()
    assert trial.intermediate_values == {step: 1 / step for step in range(1, 13)}
    (first, second) = attempts(sweep)
    assert first == (1, 0)
    assert second[0] == 2 and second[1] > 2
    assert [worker.told for worker in sweep.summary().workers] == ["SIGTERM", None]
    assert not sweep.attrs()[0].get("lost")


def test_a_trial_whose_job_is_given_more_time_meanwhile_uses_it(make_sweep: MakeSweep) -> None:
    sweep = long_trial(
        make_sweep,
        steps=70,
        resources={"time": "1m", "warning": "29s"},
    )
    (id_,) = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    wait_for(lambda: bool(_steps(sweep)), 60, "trial 0 has reported")
    slurm.ask("scontrol", "update", f"JobId={id_}_0", "TimeLimit=5")
    sweep.await_finished(1)
    assert attempts(sweep) == [(1, 0)]


def _steps(sweep: Sweep) -> list[str]:
    reports = sweep.run_dir.trial(0) / "metrics.jsonl"
    return reports.read_text().splitlines() if reports.exists() else []


BREAKS = """
import os, time
def objective(trial):
    if os.environ["HPOCTL_NODE"] == "n2":
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    time.sleep(0.3)
    return 1.0
"""


MEETS = """
import os, pathlib, time
def objective(trial):
    met = pathlib.Path(__file__).with_name("met")
    if os.environ["HPOCTL_NODE"] == "n2":
        met.touch()
    while not met.exists():
        time.sleep(0.1)
    return 1.0
"""


def test_a_node_that_breaks_trials_gets_no_more_of_them_until_it_is_trusted(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="batch",
        sampler="random",
        trials_per_task=3,
        objective="mine",
        budget={"trials": 30},
        resources={"time": "5m", "cpus": 16},  # a whole node: two of ten tasks run, eight wait
        stop_after=0,
    )
    (sweep.hpoctl.folder / "mine.py").write_text(BREAKS)
    ids = sweep.submit()
    sweep.await_finished(27, deadline_s=200)
    workers = sweep.summary().workers
    assert {"n1", "n2"} == {worker.node for worker in workers}
    on_n2 = [worker for worker in workers if worker.node == "n2"]
    assert len(on_n2) <= 2, "tasks that waited were kept from it"
    assert any("node n2 is avoided: 3 trials" in str(worker.reason) for worker in on_n2)
    states = [trial.state for trial in sweep.trials()]
    assert states.count(TrialState.FAIL) <= 5
    assert len(ids) == 1
    left = states.count(TrialState.WAITING)
    assert left > 0, "what the broken node should have run"
    attached = sweep.ask_json("workers", "add", "a-study", "-n", "1", "--cpus", "1")
    script = (sweep.run_dir.path / f"{attached['arrays'][0]['name']}.sh").read_text()
    assert "#SBATCH --exclude=n2" in script
    sweep.await_finished(30)
    assert sweep.status()["bad_nodes"].keys() == {"n2"}
    trust = "workers trust a-study n2"
    assert f"once a node is mended: hpoctl {trust}" in sweep.hpoctl("failures", "a-study").stderr
    (sweep.hpoctl.folder / "mine.py").write_text(MEETS)
    sweep.ask("extend", "a-study", "--trials", "+2", "--workers", "2")
    slurm = sweep.slurm
    assert slurm is not None
    waiting = ("squeue", "--me", "-h", "-t", "PD", "-o", "%i")
    wait_for(lambda: len(slurm.ask(*waiting).splitlines()) == 1, 60, "one waits, kept from n2")
    assert "does not avoid node 'n1'" in sweep.hpoctl(*trust.split(), "n1", code=4).stderr
    assert sweep.status()["bad_nodes"].keys() == {"n2"}
    sweep.ask(*trust.split())
    sweep.await_finished(32)
    assert sweep.status()["bad_nodes"] == {}
