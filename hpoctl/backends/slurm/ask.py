"""Asks Slurm: one command, its standard output, and an error that says what was asked."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from hpoctl.backends.slurm import door
from hpoctl.errors import BatchSystemError

_OF_A_TASK = ("HPOCTL_TASK", "HPOCTL_NODE")  # slurm/worker.sh keeps them where they are given
_TIMEOUT_S = 60  # slurmctld answers late on a busy cluster, but a login node should not hang
_PAUSE_S = 0.5  # before the second try, and twice as long before each further one
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where Slurm is, and who asks
# A surrounding job's SLURM_* would become options of ours, the others change what questions answer.
# SBATCH_* are a user's own defaults for every sbatch, but for what our scripts say themselves:
# the environment would win over them.
# Written so that bash reads it too, for slurm/container.sh.
_FOREIGN = (
    "(SLURM|SLURMD|SALLOC|SRUN|SQUEUE|SACCT|SACCTMGR|SCANCEL|SCONTROL|SINFO)_"
    "|SBATCH_(ARRAY_INX|ERROR|INPUT|JOB_NAME|OPEN_MODE|OUTPUT|SIGNAL|TIMELIMIT|WAIT)$"
)
_SECONDS = "SLURM_TIME_FORMAT=%s"  # since 1970, whatever the time zone
_SAY_TIMES = ("squeue", "sacct")  # and not sbatch, which would hand it to the job
_PASSING = re.compile(
    "unable to contact slurm controller|zero bytes were transmitted|socket timed out"
    "|connection (refused|reset|timed out)|connect failure|slurm backup controller in standby"
    "|unable to contact slurm ?dbd|no answer within|try again",
    re.IGNORECASE,
)


class NotHere(BatchSystemError):
    """There is no such program, or no such service, on this cluster."""


def ask(argv: list[str], *, timeout_s: float = _TIMEOUT_S) -> str:
    """One Slurm command's standard output. Raises BatchSystemError with argv and stderr."""
    shown = " ".join(argv)
    try:
        done = _run(argv, timeout_s)
    except FileNotFoundError:
        raise NotHere(
            f"{argv[0]} is not on this machine: run this on the login node, or add --backend local"
        ) from None
    except subprocess.TimeoutExpired as late:
        raise BatchSystemError(f"{shown}: no answer within {timeout_s:.0f} s") from late
    if done.returncode:
        complaint = " ".join(done.stderr.split()).removeprefix(f"{argv[0]}: error: ")
        if away := _PASSING.search(complaint):
            way = "try again in a minute; 'hpoctl doctor' looks whether it is back"
            raise BatchSystemError(f"{argv[0]}: {away[0]}: {way}")
        raise BatchSystemError(f"{shown}: {complaint or f'exit code {done.returncode}'}")
    return done.stdout


def _run(argv: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Here, or outside of the container that this is in."""
    if place := os.environ.get("HPOCTL_DOOR"):
        return _run_outside(Path(place), argv, timeout_s)
    return subprocess.run(
        argv, text=True, capture_output=True, timeout=timeout_s, env=_environ(argv[0])
    )


def _run_outside(
    place: Path, argv: list[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    drop = f"{_FOREIGN}|({'|'.join(_OF_A_TASK)})$"
    keep, variable = "|".join(_KEPT), _SECONDS if argv[0] in _SAY_TIMES else ""
    try:
        said = door.run(place, argv, drop=drop, keep=keep, variable=variable, timeout_s=timeout_s)
    except TimeoutError as late:
        raise subprocess.TimeoutExpired(argv, timeout_s) from late
    except OSError as closed:
        text = f"{argv[0]}: cannot be run outside of this container: {closed}"
        raise BatchSystemError(text) from closed
    if said.code == door.NOT_FOUND:
        raise FileNotFoundError(argv[0])
    return subprocess.CompletedProcess(argv, said.code, said.out, said.err)


def ask_patiently(argv: list[str], *, timeout_s: float) -> str:
    """The same, asked again for `timeout_s` in all while slurmctld is away, as in a restart."""
    end, pause_s = time.monotonic() + timeout_s, _PAUSE_S
    while True:
        try:
            return ask(argv, timeout_s=max(0.1, end - time.monotonic()))
        except BatchSystemError as wrong:
            if not _PASSING.search(str(wrong)) or time.monotonic() + pause_s >= end:
                raise
        time.sleep(pause_s)
        pause_s *= 2


def _environ(program: str) -> dict[str, str]:
    """Ours, without what would silently change a command of ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not re.match(_FOREIGN, name)
    }
    if program in _SAY_TIMES:
        name, _, value = _SECONDS.partition("=")
        kept[name] = value
    if "SLURM_JOB_ID" in os.environ:  # a task that submits another gives it neither its name
        for name in _OF_A_TASK:
            kept.pop(name, None)
        for name in [name for name in kept if name.endswith("PATH")]:  # nor paths that grow
            kept[name] = os.pathsep.join(dict.fromkeys(kept[name].split(os.pathsep)))
    return kept
