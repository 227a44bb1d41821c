"""The ways in which Slurm takes a running task from its worker."""

from __future__ import annotations

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
    """Slurm ends it at its next look, within half a minute."""
    slurm.ask("scontrol", "update", f"JobId={task}", "TimeLimit=1", "EndTime=now+1")


def by_administrator(slurm: Slurm, task: str) -> None:
    """Sets its node down; whoever calls this sets it up again."""
    node = slurm.ask("squeue", "-ho%N", f"-j{task}")
    slurm.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
