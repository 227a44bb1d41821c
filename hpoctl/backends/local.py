"""The local backend: the same scripts on this machine, started by submitit's local executor.

One submitit job works off one array: it waits for the array before it, then keeps at most
`at_once` tasks running. It outlives the terminal that started it and ends with its tasks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.plan import JobArray
from hpoctl.record import (
    Charge,
    Fate,
    Look,
    TaskRecord,
    TaskState,
    WorkerId,
    WorkerRecord,
)
from hpoctl.rundir import RunDir
from hpoctl.script import body, exports

if TYPE_CHECKING:
    from hpoctl.delay import Delay
    from hpoctl.limits import Cap, Limits
    from hpoctl.sweep import Sweep

_YEAR_MIN = 365 * 24 * 60  # submitit wants a timeout; a local worker has no walltime
_POLL_S = 0.1
_KILL_WAIT_S = 10.0  # from SIGTERM to SIGKILL, as Slurm's KillWait


def script(array: JobArray, sweep: Sweep, run_dir: RunDir, workdir: Path | None = None) -> str:
    """The script of every task of an array: exports, and the worker's script verbatim."""
    variables = {**exports(array, sweep, run_dir, workdir), "HPOCTL_WALLTIME_S": ""}
    return "\n".join(["#!/bin/bash", "", body(variables)])


def submit(
    script: Path, array: JobArray, sweep: Sweep, run_dir: RunDir, after: Sequence[str]
) -> str:
    """Starts an array in the background and gives its id, a process id."""
    import submitit

    executor = submitit.LocalExecutor(folder=run_dir.logs / "submitit")
    executor.update_parameters(timeout_min=_YEAR_MIN)
    devices = _devices(array.tasks, sweep.resources.gpus.count)
    with _detached(run_dir.logs / "submitit.log"):
        job = executor.submit(run_array, script, array, run_dir.logs, after, devices)
    return str(job.job_id)


def _devices(tasks: int, each: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each task: its share of this machine's GPUs, in turn.

    Without GPUs in the sweep a task sees what the submitter sees (submitit would hide them all).
    """
    visible, known = os.environ.get("CUDA_VISIBLE_DEVICES"), visible_gpus()
    if not each or len(known) < each:
        return [visible] * tasks
    shares = [known[i : i + each] for i in range(0, len(known) - each + 1, each)]
    return [",".join(shares[task % len(shares)]) for task in range(tasks)]


def visible_gpus() -> list[str]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves to us."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible.split(",") if visible else []
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


@contextmanager
def _detached(log: Path) -> Iterator[None]:
    """Processes started inside outlive the terminal and write to `log`, not to our pipes."""
    ignored = {sig: signal.signal(sig, signal.SIG_IGN) for sig in (signal.SIGINT, signal.SIGHUP)}
    kept = [os.dup(fd) for fd in (0, 1, 2)]
    try:
        with Path(os.devnull).open() as nothing, log.open("a") as out:
            for fd, stream in enumerate((nothing, out, out)):
                os.dup2(stream.fileno(), fd)
        yield
    finally:
        for fd, copy in enumerate(kept):
            os.dup2(copy, fd)
            os.close(copy)
        for sig, handler in ignored.items():
            signal.signal(sig, handler)


def run_array(
    script: Path, array: JobArray, logs: Path, after: Sequence[str], devices: Sequence[str | None]
) -> None:
    """Runs all tasks of an array to their end; SIGTERM ends them as scancel would."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    while any(_is_alive(id_) for id_ in after) and not stopped.is_set():
        time.sleep(_POLL_S)
    job, waiting = os.environ["SUBMITIT_LOCAL_JOB_ID"], list(range(array.tasks))
    running: list[subprocess.Popen[bytes]] = []
    while (waiting or running) and not stopped.is_set():
        while waiting and len(running) < (array.at_once or array.tasks):
            index = waiting.pop(0)
            running.append(_start(script, f"{job}_{index}", logs, devices[index]))
        time.sleep(_POLL_S)
        running = [task for task in running if task.poll() is None]
    _end(running)


def _start(script: Path, task: str, logs: Path, devices: str | None) -> subprocess.Popen[bytes]:
    env = {**os.environ, "HPOCTL_TASK": task}
    del env["CUDA_VISIBLE_DEVICES"]
    if devices is not None:
        env["CUDA_VISIBLE_DEVICES"] = devices
    with (logs / f"{task}.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", str(script)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to each task, and SIGKILL to its whole session where that is not enough."""
    deadline = time.monotonic() + _KILL_WAIT_S
    for task in running:
        task.terminate()
    for task in running:
        try:
            task.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(task.pid, signal.SIGKILL)
            task.wait()


def find(script: Path) -> str | None:
    """Nothing: a local array whose submitter died before the ledger was written is not known."""
    return None


def tasks(ids: Sequence[str], run_dir: RunDir) -> tuple[TaskRecord, ...]:
    """All tasks of these arrays; they are alive as long as their array is."""
    counts = {submission.id: submission.tasks for submission in run_dir.submissions()}
    return tuple(
        TaskRecord(
            task=f"{array}_{index}",
            state=TaskState.RUNNING if _is_alive(array) else TaskState.GONE,
        )
        for array in ids
        for index in range(counts.get(array, 0))
    )


def look(ids: Sequence[str], run_dir: RunDir) -> Look:
    """The same; this machine always answers."""
    return Look(tasks=tasks(ids, run_dir), asked_at=time.time())


def fates_by(
    look: Look, workers: Sequence[WorkerRecord], run_dir: RunDir
) -> Mapping[WorkerId, Fate]:
    """What this machine knows of these workers now: nothing of those of another machine."""
    here = os.uname().nodename.partition(".")[0]
    return {
        worker.id: _fate(worker, run_dir)
        if worker.node.partition(".")[0] == here
        else Fate.FORGOTTEN
        for worker in workers
    }


def fates(
    workers: Sequence[WorkerRecord], run_dir: RunDir, *, newer_than: float, patience_s: float
) -> tuple[float, Mapping[WorkerId, Fate]]:
    """The same, as of this moment."""
    return time.time(), fates_by(Look(), workers, run_dir)


def _fate(worker: WorkerRecord, run_dir: RunDir) -> Fate:
    """By the process, which must be a worker of this run, as ids of processes come again."""
    try:
        words = Path(f"/proc/{worker.pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return Fate.GONE
    named = run_dir.path.name in (Path(word).name for word in words)
    return Fate.RUNNING if named and "worker" in words else Fate.GONE


def charges(ids: Sequence[str], run_dir: RunDir) -> tuple[Charge, ...] | None:
    """None: this machine charges nobody."""
    return None


def remembered(run_dir: RunDir) -> tuple[Charge, ...] | None:
    """The same."""
    return None


def cancel(ids: Sequence[str], run_dir: RunDir) -> None:
    """Asks these arrays to end."""
    for array in ids:
        if _is_alive(array):
            os.kill(int(array), signal.SIGTERM)


def limits(newer_than: float) -> Limits:
    """This machine has room for so much; nothing is refused."""
    from hpoctl.limits import Limits, Machine

    machine = Machine(cpus=len(os.sched_getaffinity(0)), gpus=len(visible_gpus()))
    return Limits(machine=machine)


def withdraw(ids: Sequence[str], run_dir: RunDir) -> None:
    """Nothing: what waits here waits for its turn on this machine."""


def why(ids: Sequence[str]) -> tuple[Delay, ...]:
    """Nothing: no task waits for another user."""
    return ()


def room(caps: Sequence[Cap]) -> int | None:
    """Any number of tasks."""
    return None


def _is_alive(array: str) -> bool:
    """Whether the process is there and is one of submitit's, as ids of processes come again.

    Without any words it is a zombie, or in the midst of exec(2): its words come last.
    """
    process = Path("/proc", array)
    try:
        if words := (process / "cmdline").read_bytes():
            return b"submitit" in words
        return (process / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
