"""The ways in which Slurm takes a running task from its worker."""

from __future__ import annotations

from contextlib import suppress

from servers import Slurm


def by_scancel(slurm: Slurm, task: str) -> None:
    slurm.ask("scancel", task)


def by_requeue(slurm: Slurm, task: str) -> None:
    slurm.ask("scontrol", "requeue", task)


def by_preemption(slurm: Slurm, task: str) -> None:
    node = slurm.ask("squeue", "-ho%N", f"-j{task}")
    urgent = ("--qos=high", f"--nodelist={node}", "--exclusive", "--time=1", "--output=/dev/null")
    slurm.ask("sbatch", *urgent, "--wrap=sleep 1")


def by_walltime(slurm: Slurm, task: str) -> None:
    """Slurm ends it at its next look, within half a minute.

    Not `now+1`: of a look in between Slurm would warn only, and the worker would leave by that.
    """
    for _ in range(9):
        with suppress(AssertionError):  # refused, as another second has begun on the way
            slurm.ask("scontrol", "update", f"JobId={task}", "TimeLimit=1", "EndTime=now")
            return
    raise AssertionError("scontrol took no EndTime=now")


def by_administrator(slurm: Slurm, task: str) -> None:
    """Sets its node down; whoever calls this sets it up again."""
    node = slurm.ask("squeue", "-ho%N", f"-j{task}")
    slurm.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
