"""The Slurm backend: the only room that says sbatch, squeue, scontrol or SLURM_.

Reads `-o` text, whose columns we name, and not `--json`, whose shape changes between releases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.backends.slurm.ask import ask
from hpoctl.errors import BatchSystemError
from hpoctl.plan import JobArray, Limits
from hpoctl.record import TaskRecord, TaskState
from hpoctl.rundir import RunDir, slug
from hpoctl.script import body, exports

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep

_LIMITS_TIMEOUT_S = 5  # a plan without limits is better than none


def script(array: JobArray, sweep: Sweep, run_dir: RunDir) -> str:
    """The batch script of an array: header, exports, and the worker's script verbatim."""
    lines = [f"#SBATCH {option}" for option in _options(array, sweep, run_dir)]
    return "\n".join(["#!/bin/bash", *lines, "", body(exports(array, sweep, run_dir))])


def _options(array: JobArray, sweep: Sweep, run_dir: RunDir) -> list[str]:
    resources = sweep.resources
    throttle = f"%{array.at_once}" if array.at_once else ""
    log = f"{_literal(run_dir.logs)}/%A_%a.log"
    options = [
        f"--job-name=hpo-{slug(sweep.study)}-{array.name}",
        f"--array=0-{array.tasks - 1}{throttle}",
        f'--output="{log}"',
        "--open-mode=append",
        f"--time={_clock(resources.time)}",
        f"--signal=B:USR2@{resources.warning_s}",
        f"--cpus-per-task={resources.cpus}",
    ]
    for flag, value in (
        ("partition", resources.partition),
        ("account", resources.account),
        ("qos", resources.qos),
        ("mem", resources.mem),
    ):
        if value is not None:
            options.append(f"--{flag}={value}")
    if gpus := resources.gpus.count:
        kind = f"{resources.gpus.type}:" if resources.gpus.type else ""
        options.append(f"--gres=gpu:{kind}{gpus}")
    return [*options, *resources.sbatch]


def _literal(path: Path) -> str:
    """A path as it must stand between double quotes in a file name pattern of Slurm."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _clock(time: timedelta) -> str:
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def submit(script: Path, array: JobArray, sweep: Sweep, run_dir: RunDir, after: str | None) -> str:
    """Hands a script to Slurm and gives the id of its array. Raises BatchSystemError."""
    dependency = [f"--dependency=afterany:{after}"] if after else []
    answer = ask(["sbatch", "--parsable", *dependency, str(script)])
    return answer.strip().split(";")[0]


def find(script: Path) -> str | None:
    """The id of an array that was accepted before its submitter died, if Slurm still knows it."""
    for line in ask(["squeue", "--me", "--noheader", "--format=%F|%o"]).splitlines():
        id_, _, command = line.partition("|")
        if command == str(script):
            return id_
    return None


def tasks(ids: Sequence[str], run_dir: RunDir) -> tuple[TaskRecord, ...]:
    """All tasks of these arrays that Slurm still knows, in one question."""
    if not ids:
        return ()
    question = ["squeue", "--noheader", "--array", f"--jobs={','.join(ids)}"]
    try:
        return parse_tasks(ask([*question, "--states=all", "--format=%F_%K|%T|%N|%r"]))
    except BatchSystemError as refused:
        if "Invalid job id" in str(refused):  # ended so long ago that Slurm forgot it
            return ()
        raise


def parse_tasks(text: str) -> tuple[TaskRecord, ...]:
    """The lines `job_index|state|node|reason` of squeue."""
    rows = [line.split("|", 3) for line in text.splitlines() if line.count("|") >= 3]
    return tuple(
        TaskRecord(
            task=task,
            state=TaskState(state),
            node=node or None,
            reason=None if reason in ("", "None") else reason,
        )
        for task, state, node, reason in rows
    )


def cancel(ids: Sequence[str], run_dir: RunDir) -> None:
    """Ends these arrays, running or not. Raises BatchSystemError."""
    if ids:
        ask(["scancel", *ids])


def limits() -> Limits:
    """What this cluster allows; no limits where there is no Slurm to ask."""
    try:
        text = ask(["scontrol", "show", "config"], timeout_s=_LIMITS_TIMEOUT_S)
    except BatchSystemError:
        return Limits()
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return Limits(tasks_per_array=int(found[1]) if found else None)
