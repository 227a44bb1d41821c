"""A memory limit that a real Slurm keeps by cgroups: the kernel kills, only the trial is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from optuna.trial import TrialState
from servers import Slurm, wait_for

from integration.conftest import MakeSweep

# The kernel kills the largest process of the task: the trial, of which the worker has less.
GREEDY = """
from pathlib import Path

def objective(trial):
    first = not Path(f"tried-{trial.number}").exists()
    Path(f"tried-{trial.number}").touch()
    trial.report(1.0, 1)
    if trial.number == 1 and first:
        bytearray(3 * 2**30)
    trial.report(2.0, 2)
    return 1.0
"""


@pytest.fixture(scope="module")
def confined() -> Iterator[Slurm]:
    """A cluster whose tasks are held to the memory that they asked for."""
    if not os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK):
        pytest.skip("this machine lets nobody limit memory by cgroups of version 1")
    cluster = Slurm()
    try:
        cluster.start(nodes=1, settings=["TaskPlugin=task/cgroup"])
        yield cluster
    finally:
        cluster.stop()
        for left in Path("/sys/fs/cgroup").glob("*/slurm_n1"):  # slurmd leaves its own behind
            with suppress(OSError):
                left.rmdir()


@pytest.mark.parametrize(("policy", "ends"), [("fail", "FAIL"), ("retry", "COMPLETE")])
@pytest.mark.parametrize("storage", ["postgresql", "journal"])
def test_a_trial_that_the_kernel_kills_for_its_memory_is_treated_as_the_sweep_says(
    make_sweep: MakeSweep, confined: Slurm, storage: str, policy: str, ends: str
) -> None:
    sweep = make_sweep(
        storage,
        backend="local",
        mode="async",
        workers=1,
        objective="mine",
        objective_args=None,
        budget={"trials": 4},
        on={"host_oom": policy},
    )
    (sweep.hpoctl.folder / "mine.py").write_text(GREEDY)
    resources = {"time": "5m", "cpus": 1, "mem": "1G"}
    sweep.rewrite(backend="slurm", resources=resources)
    sweep.hpoctl.env.update(confined.env)
    (array,) = sweep.submit()
    sweep.await_finished(4)
    states = [trial.state for trial in sweep.trials()]
    assert states == [
        TrialState.COMPLETE,
        TrialState[ends],
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    attempts = [attrs["attempt"] for attrs in sweep.attrs()]
    assert attempts == [1, 2 if policy == "retry" else 1, 1, 1]
    (group,) = sweep.ask_json("failures", "a-study")["failures"]
    assert (group["cause"], group["last_line"]) == (
        "host_oom",
        "the trial's process was ended by SIGKILL (out of memory)",
    )
    (worker,) = sweep.summary().workers  # which has lived on
    assert worker.reason == "no trial waits"

    def accounted() -> bool:
        return [task.state for task in confined.tasks(array)] == ["OUT_OF_MEMORY"]

    wait_for(accounted, 60, f"Slurm itself has seen the kill: {confined.tasks(array)}")
