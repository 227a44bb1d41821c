"""The Slurm backend: the only room that says sbatch, squeue, scontrol or SLURM_.

Reads `-o` text, whose columns we name, and not `--json`, whose shape changes between releases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.backends.slurm import accounting, fate, queue
from hpoctl.backends.slurm.ask import NotHere, ask
from hpoctl.errors import BatchSystemError
from hpoctl.plan import JobArray
from hpoctl.record import Charge, Fate, Look, TaskRecord, WorkerId, WorkerRecord
from hpoctl.rundir import RunDir, slug
from hpoctl.script import body, exports
from hpoctl.words import Cause

if TYPE_CHECKING:
    from hpoctl.delay import Delay
    from hpoctl.limits import Cap, Limits
    from hpoctl.sweep import Sweep

log = logging.getLogger(__name__)
_FRESH_S = 4.0  # so old may an answer be for one who only looks, less than `status --watch` waits
_GLANCE_S = 5.0  # a status without Slurm is better than none
_PATIENCE_S = 20.0  # slurmctld is started again in less
_TAKEN_S = 4.0  # with `grace` this is less than KillWait
_LATE_S = 1.0  # accounting hears of an end after some tenths of a second


def script(array: JobArray, sweep: Sweep, run_dir: RunDir, workdir: Path | None = None) -> str:
    """The batch script of an array: header, exports, and the worker's script verbatim."""
    lines = [f"#SBATCH {option}" for option in _options(array, sweep, run_dir)]
    return "\n".join(["#!/bin/bash", *lines, "", body(exports(array, sweep, run_dir, workdir))])


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
        prefix = "gpu:" if resources.gpu_flag == "gres" else ""
        options.append(f"--{resources.gpu_flag}={prefix}{kind}{gpus}")
    if array.exclude:  # after the sweep's own: of two, the later one counts
        nodes = ",".join([*_excluded(sweep), *array.exclude])
        return [*options, *resources.sbatch, f"--exclude={nodes}"]
    return [*options, *resources.sbatch]


def _excluded(sweep: Sweep) -> list[str]:
    """The nodes that the sweep's own flags exclude."""
    flag = "--exclude="
    return [f.removeprefix(flag) for f in sweep.resources.sbatch if f.startswith(flag)][-1:]


def exclude(ids: Sequence[str], nodes: Sequence[str], sweep: Sweep, run_dir: RunDir) -> None:
    """Keeps what of these arrays has not started yet from some nodes. Raises BatchSystemError."""
    listed = ",".join([*_excluded(sweep), *nodes])
    ours = _ours(ids, run_dir)
    if not ours:
        return
    pending = ["squeue", "--noheader", f"--jobs={','.join(ours)}", "--states=PENDING"]
    waiting = ask([*pending, "--format=%i"]).split()
    for task in waiting:  # one line for all tasks of an array that wait: 12_[4-7%2]
        job = task.partition("_")[0] if "[" in task else task
        ask(["scontrol", "update", f"JobId={job}", f"ExcNodeList={listed}"])


def _literal(path: Path) -> str:
    """A path as it must stand between double quotes in a file name pattern of Slurm."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _clock(time: timedelta) -> str:
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def submit(
    script: Path, array: JobArray, sweep: Sweep, run_dir: RunDir, after: Sequence[str]
) -> str:
    """Hands a script to Slurm and gives the id of its array. Raises BatchSystemError."""
    flags = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    if array.exclude:  # known since the script was written, perhaps
        flags.append(f"--exclude={','.join([*_excluded(sweep), *array.exclude])}")
    answer = ask(["sbatch", "--parsable", *flags, str(script)])
    return answer.strip().split(";")[0]


def find(script: Path) -> str | None:
    """The id of an array that was accepted before its submitter died, if Slurm still knows it."""
    for line in ask(["squeue", "--me", "--noheader", "--format=%F|%o"]).splitlines():
        id_, _, command = line.partition("|")
        if command == str(script):
            return id_
    return None


def tasks(ids: Sequence[str], run_dir: RunDir) -> tuple[TaskRecord, ...]:
    """All tasks of these arrays that Slurm knows now. Raises BatchSystemError."""
    known = queue.look(ids, run_dir, newer_than=time.time(), timeout_s=_PATIENCE_S)
    if known.silence is not None:
        raise BatchSystemError(known.silence)
    return known.tasks


def look(ids: Sequence[str], run_dir: RunDir) -> Look:
    """The same for one who only looks: of the last seconds, or of longer ago than that."""
    try:
        return queue.look(ids, run_dir, newer_than=time.time() - _FRESH_S, timeout_s=_GLANCE_S)
    except BatchSystemError as wrong:
        return Look(silence=str(wrong))


def fates_by(
    look: Look, workers: Sequence[WorkerRecord], run_dir: RunDir
) -> Mapping[WorkerId, Fate]:
    """What an answer of Slurm says of these workers."""
    if not look.asked_at:
        return {worker.id: Fate.UNKNOWN for worker in workers}
    return fate.by_queue(workers, look.tasks)


def fates(
    workers: Sequence[WorkerRecord], run_dir: RunDir, *, newer_than: float, patience_s: float
) -> tuple[float, Mapping[WorkerId, Fate]]:
    """What Slurm knows of these workers, and when it said so: one question for all of the run.

    What squeue has forgotten, sacct is asked, if there is one.
    """
    ids = _ids(workers, run_dir)
    try:
        known = queue.look(ids, run_dir, newer_than=newer_than, timeout_s=patience_s)
    except NotHere:
        return time.time(), {worker.id: Fate.FORGOTTEN for worker in workers}
    except BatchSystemError as wrong:
        known = Look(silence=str(wrong))
    if known.silence is not None:
        log.warning("Slurm does not answer: %s", known.silence)
        return known.asked_at, {worker.id: Fate.UNKNOWN for worker in workers}
    said = fate.by_queue(workers, known.tasks)
    forgotten = [worker for worker in workers if said[worker.id] is Fate.FORGOTTEN]
    return known.asked_at, {**said, **_accounted(forgotten, ids, run_dir, patience_s)}


def causes(workers: Sequence[WorkerRecord], run_dir: RunDir) -> Mapping[str, Cause]:
    """Why the tasks of workers that are gone ended, where squeue or sacct says so."""
    if not workers:
        return {}
    ids = _ids(workers, run_dir)
    try:
        known = queue.look(ids, run_dir, newer_than=time.time() - _FRESH_S, timeout_s=_GLANCE_S)
    except BatchSystemError:
        known = Look()
    return fate.causes(workers, known.tasks, _charged(ids, run_dir, _GLANCE_S))


def why_taken(worker: WorkerRecord, run_dir: RunDir) -> Cause | None:
    """Why a worker was told to go by SIGTERM, which may be a moment ago.

    Only accounting knows while the worker lives, and all workers of a run ask it once a second at
    most. None where it does not say so soon, as there is not much time.
    """
    ids, told_at = _ids([worker], run_dir), worker.told_at or 0.0
    end = time.monotonic() + _TAKEN_S
    while (left_s := end - time.monotonic()) > 0:
        since = max(told_at, time.time() - _LATE_S)
        try:
            known = accounting.charges(ids, run_dir, newer_than=since, timeout_s=left_s)
        except BatchSystemError as wrong:
            log.info("no word from accounting: %s", wrong)
            return None
        if (cause := fate.accounted(worker, known)) is not None:
            return cause
        time.sleep(_LATE_S)
    return None


def _ids(workers: Sequence[WorkerRecord], run_dir: RunDir) -> list[str]:
    """All arrays of a run, those too that only its workers know of."""
    arrays = dict.fromkeys(submission.id for submission in run_dir.submissions())
    arrays |= dict.fromkeys(worker.task.rpartition("_")[0] for worker in workers)
    return [id_ for id_ in arrays if id_.isdigit()]


def _accounted(
    workers: Sequence[WorkerRecord], ids: Sequence[str], run_dir: RunDir, patience_s: float
) -> Mapping[WorkerId, Fate]:
    if not workers:
        return {}
    return fate.by_accounting(workers, _charged(ids, run_dir, patience_s))


def _charged(ids: Sequence[str], run_dir: RunDir, patience_s: float) -> tuple[Charge, ...]:
    """What accounting says, or nothing."""
    try:
        since = time.time() - _FRESH_S
        return accounting.charges(ids, run_dir, newer_than=since, timeout_s=patience_s)
    except BatchSystemError as wrong:
        log.info("no word from accounting: %s", wrong)
        return ()


def charges(ids: Sequence[str], run_dir: RunDir) -> tuple[Charge, ...]:
    """What accounting charges for all lives of these tasks. Raises BatchSystemError."""
    since = time.time() - _FRESH_S
    return accounting.charges(ids, run_dir, newer_than=since, timeout_s=_PATIENCE_S)


def remembered(run_dir: RunDir) -> tuple[Charge, ...] | None:
    """The same as accounting was last asked, None if it never was; asks nobody."""
    return accounting.remembered(run_dir)


def cancel(ids: Sequence[str], run_dir: RunDir) -> None:
    """Ends these arrays, running or not. Raises BatchSystemError."""
    if ids and (ours := _ours(ids, run_dir)):
        ask(["scancel", *ours])


def _ours(ids: Sequence[str], run_dir: RunDir) -> list[str]:
    """Those of these arrays that Slurm has, and as this run's.

    A slurmctld that was killed may have lost its last ids, and gives them to other jobs. A job is
    ours by its script or, as a run directory may have been moved, by its name.
    """
    try:
        said = ask(["squeue", "--noheader", f"--jobs={','.join(ids)}", "--format=%F|%o|%j"])
    except BatchSystemError as refused:
        if "Invalid job id" in str(refused):  # ended so long ago that Slurm forgot them
            return []
        raise
    found: dict[str, bool] = {}
    for id_, command, name in (line.split("|", 2) for line in said.splitlines()):
        by_script = Path(command).resolve().parent == run_dir.path.resolve()
        found[id_] = by_script or name.startswith(f"hpo-{slug(run_dir.run().study)}-")
    if foreign := [id_ for id_, mine in found.items() if not mine]:
        log.warning("jobs %s are not of this run by now: left alone", ", ".join(foreign))
    return [id_ for id_, mine in found.items() if mine]


def limits(newer_than: float) -> Limits:
    """What this cluster allows, as of after this moment; no limits where there is no Slurm."""
    from hpoctl.backends.slurm import kept  # which a command that only reads has no use for

    return kept.read(newer_than)


def room(caps: Sequence[Cap]) -> int | None:
    """How many more tasks these limits let this user submit now; None for any number."""
    if not caps:
        return None
    return max(0, min(cap.value - _submitted(cap) for cap in caps))


def _submitted(cap: Cap) -> int:
    """How many tasks count against a limit on submitted ones."""
    from hpoctl.backends.slurm.jobs import scope

    states = "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED"
    whose = scope(cap) or ["--me"]  # of a whole cluster's limit: our own, not a list of all jobs
    return len(ask(["squeue", *whose, "--array", "--noheader", states, "--format=%i"]).split())


def withdraw(ids: Sequence[str], run_dir: RunDir) -> None:
    """Ends those tasks of these arrays that have not started. Raises BatchSystemError."""
    if ids and (ours := _ours(ids, run_dir)):
        ask(["scancel", "--state=PENDING", *ours])


def why(ids: Sequence[str]) -> tuple[Delay, ...]:
    """Why tasks of these arrays wait. Raises BatchSystemError."""
    from hpoctl.backends.slurm.reasons import read

    return read(ids)
