"""The faults: each finds a victim, strikes, and says how to see that it had an effect."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from chaos.stage import Stage, Task, WorkerProcess, is_alive, within

T = TypeVar("T")

Seen = Callable[[], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault that was done: to whom, and what is to be seen of it within some seconds.

    `tasks` are the workers that it hit; `then` is done `after_s` seconds later.
    """

    victim: str
    seen: Seen
    tasks: tuple[str, ...] = ()
    within_s: float = 15.0
    then: Callable[[], None] | None = None
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault of the schedule: its kind, its moment, and what chooses its victim, from 0 to 1."""

    kind: str
    at_s: float
    chance: float


def schedule(seed: int, pace_s: float) -> Iterator[Planned]:
    """The faults of a seed, without end: first each kind once, then by weight."""
    dice = random.Random(seed)
    at_s = 0.0
    first = list(FAULTS)
    dice.shuffle(first)
    first.sort(key=lambda kind: kind != "walltime end")  # Slurm looks at walltimes every 30 s
    while True:
        weights = [weight for weight, _ in FAULTS.values()]
        kind = first.pop(0) if first else dice.choices(list(FAULTS), weights)[0]
        at_s += pace_s * dice.uniform(0.6, 1.4)
        yield Planned(kind=kind, at_s=at_s, chance=dice.random())


def strike(stage: Stage, planned: Planned) -> Strike | None:
    """Does it; None where it finds no victim."""
    return FAULTS[planned.kind][1](stage, planned.chance)


def _pick(among: list[T], chance: float) -> T | None:
    return among[int(chance * len(among))] if among else None


def _worker(
    stage: Stage, chance: float, *, with_child: bool = False
) -> tuple[WorkerProcess, Task] | None:
    """A worker whose task Slurm says is running."""
    tasks = {task.name: task for task in stage.tasks() or () if task.state == "RUNNING"}
    found = [
        (worker, tasks[worker.task])
        for worker in stage.workers()
        if worker.task in tasks
        and not stage.is_doomed(worker.task)
        and (worker.child is not None or not with_child)
    ]
    return _pick(found, chance)


def _busy_node(stage: Stage, chance: float) -> tuple[str, list[Task]] | None:
    """A node with workers on it, and these."""
    tasks = [task for task in stage.tasks() or () if task.state == "RUNNING"]
    spared = {task.node for task in tasks if stage.is_doomed(task.name)}
    node = _pick(sorted({task.node for task in tasks} - spared), chance)
    return None if node is None else (node, [task for task in tasks if task.node == node])


def _in_state(stage: Stage, before: Task, state: str) -> Seen:
    """Once this life of the task is in a state."""

    def seen() -> str | None:
        now = stage.task(before.name)
        here = now is not None and (now.state, now.restarts) == (state, before.restarts)
        return f"{before.name} {state}" if here else None

    return seen


def _restarted(stage: Stage, before: Task) -> Seen:
    """Once Slurm has sent the task back to its queue."""

    def seen() -> str | None:
        now = stage.task(before.name)
        if now is None or now.restarts <= before.restarts:
            return None
        return f"{now.name} {now.state}, restart {now.restarts}"

    return seen


# --- by Slurm's commands --------------------------------------------------------------------------


def scancel(stage: Stage, chance: float) -> Strike | None:
    """Ends a worker's task for good."""
    if (found := _worker(stage, chance)) is None:
        return None
    stage.run("scancel", found[1].name)
    name = found[1].name
    return Strike(victim=name, tasks=(name,), seen=_in_state(stage, found[1], "CANCELLED"))


def requeue(stage: Stage, chance: float) -> Strike | None:
    """Sends a worker's task back to the queue, under the same id."""
    if (found := _worker(stage, chance)) is None:
        return None
    stage.run("scontrol", "requeue", found[1].name)
    return Strike(victim=found[1].name, tasks=(found[1].name,), seen=_restarted(stage, found[1]))


def preemption(stage: Stage, chance: float) -> Strike | None:
    """A short job of a higher QOS takes a whole node."""
    if (found := _busy_node(stage, chance)) is None:
        return None
    node, tasks = found
    job = ["--qos=high", f"--nodelist={node}", "--exclusive", "--time=1", "--job-name=urgent"]
    stage.run("sbatch", *job, "--output=/dev/null", "--wrap=sleep 1")
    seen = _restarted(stage, tasks[0])
    return Strike(victim=node, tasks=tuple(task.name for task in tasks), seen=seen, within_s=20)


def node_down(stage: Stage, chance: float) -> Strike | None:
    """Slurm gives a node up whose slurmd is alive, and takes it back."""
    if (found := _busy_node(stage, chance)) is None:
        return None
    node, tasks = found
    name = f"NodeName={node}"
    stage.run("scontrol", "update", name, "State=DOWN", "Reason=chaos")
    within(0.5 + 2 * chance, lambda: False)
    if stage.node_state(node).startswith("down"):
        stage.run("scontrol", "update", name, "State=RESUME")
    within(20, lambda: not stage.node_state(node).startswith("down"))
    seen = _restarted(stage, tasks[0])
    return Strike(victim=node, tasks=tuple(task.name for task in tasks), seen=seen)


def walltime_end(stage: Stage, chance: float) -> Strike | None:
    """Lets a worker's walltime end in some seconds, in the middle of a trial.

    Slurm looks at the walltimes each 30 s and warns and ends then, so three of four workers get
    their warning at once; the others are ended by Slurm, and spared by the other faults until then.
    """
    # One that has just been started knows no signals yet, and would only end.
    within(20, lambda: _worker(stage, chance, with_child=True) is not None)
    if (found := _worker(stage, chance, with_child=True)) is None:
        return None
    _, task = found
    before = stage.log(task.name)
    moment = datetime.now() + timedelta(seconds=2 + 16 * chance)
    end = moment.strftime("%Y-%m-%dT%H:%M:%S")
    stage.run("scontrol", "update", f"JobId={task.name}", f"EndTime={end}")
    stage.doom(task.name, _TIMEOUT_S)
    if int(chance * 100) % 4:
        stage.run("scancel", "--batch", "--signal=USR2", task.name)

    def warned() -> str | None:
        # Slurm notes in the task's output what it did to it, and the worker why it left.
        said = stage.log(task.name)[len(before) :]
        found = [sign for sign in _SIGNS if sign in said]
        now = stage.task(task.name)
        if not found or now is None or now.restarts != task.restarts:
            return None
        return f"{task.name}: {found[0]}"

    timed_out = _in_state(stage, task, "TIMEOUT")

    def seen() -> str | None:
        if (said := warned() or timed_out()) is not None:
            stage.doomed.pop(task.name, None)
        return said

    return Strike(victim=task.name, tasks=(task.name,), seen=seen, within_s=_TIMEOUT_S)


_TIMEOUT_S = 55  # the end is 18 s away at most, Slurm looks 30 s later at most, and writes it down
_SIGNS = ("SIGUSR2", "walltime", "DUE TO TIME LIMIT")


# --- daemons --------------------------------------------------------------------------------------


def slurmctld_restart(stage: Stage, chance: float) -> Strike | None:
    """The controller is restarted, in good order."""
    return _restart(stage, "slurmctld", signal.SIGTERM, away_s=3 * chance)


def slurmctld_kill(stage: Stage, chance: float) -> Strike | None:
    """The controller is killed, and started again."""
    return _restart(stage, "slurmctld", signal.SIGKILL, away_s=3 * chance)


def slurmd_kill(stage: Stage, chance: float) -> Strike | None:
    """A node's slurmd is killed, and started again; its jobs live on."""
    if (found := _busy_node(stage, chance)) is None:
        return None
    return _restart(stage, f"slurmd.{found[0]}", signal.SIGKILL, away_s=3 * chance)


def _restart(stage: Stage, daemon: str, number: signal.Signals, away_s: float) -> Strike | None:
    if daemon == "slurmctld" and any(stage.is_doomed(task) for task in stage.doomed):
        return None  # it would look at the walltimes 30 s after its restart, or forget one
    before = stage.pid(daemon)
    os.kill(before, number)
    ended = within(20, lambda: not is_alive(before))
    within(away_s, lambda: False)

    def back() -> bool:
        with suppress(OSError, ValueError):
            after = stage.pid(daemon)
            return after != before and is_alive(after) and stage.tasks() is not None
        return False

    stage.start(daemon)
    within(15, back)
    said = f"{daemon} ended by {number.name}, away for {away_s:.1f} s, back"
    return Strike(victim=daemon, seen=lambda: said if ended and back() else None)


def database_restart(stage: Stage, chance: float) -> Strike | None:
    """The study's database goes down, in order or by a crash, and comes back."""
    how = signal.SIGINT if chance < 0.5 else signal.SIGQUIT  # fast, immediate
    before = stage.rows("select pg_postmaster_start_time()")
    stage.database.halt(crash=how is signal.SIGQUIT)
    within(4 * chance, lambda: False)
    stage.database.resume()
    after = stage.rows("select pg_postmaster_start_time()")
    said = f"database ended by {how.name}, back" if after != before else None
    return Strike(victim="database", seen=lambda: said)


# --- processes ------------------------------------------------------------------------------------


def worker_kill(stage: Stage, chance: float) -> Strike | None:
    """SIGKILL of a worker."""
    if (found := _worker(stage, chance)) is None:
        return None
    worker, task = found
    return _kill(worker.pid, f"worker {worker.pid} of {task.name}", task.name)


def shell_kill(stage: Stage, chance: float) -> Strike | None:
    """SIGKILL of the batch script that started a worker."""
    if (found := _worker(stage, chance)) is None:
        return None
    worker, task = found
    return _kill(worker.parent, f"batch script {worker.parent} of {task.name}", task.name)


def child_kill(stage: Stage, chance: float) -> Strike | None:
    """SIGKILL of a trial's process."""
    if (found := _worker(stage, chance, with_child=True)) is None:
        return None
    worker, task = found
    assert worker.child is not None
    return _kill(worker.child, f"trial's process {worker.child} of {task.name}", task.name)


def _kill(pid: int, victim: str, task: str) -> Strike | None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None

    def seen() -> str | None:
        return None if is_alive(pid) else f"process {pid} is gone"

    return Strike(victim=victim, tasks=(task,), seen=seen)


def worker_stop(stage: Stage, chance: float) -> Strike | None:
    """SIGSTOP of a worker, for less than its lease or for more, then SIGCONT."""
    if (found := _worker(stage, chance)) is None:
        return None
    worker, task = found
    try:
        stage.halt(worker.pid)
    except ProcessLookupError:
        return None
    seconds = 2 + 10 * chance
    said = f"stopped for {seconds:.1f} s"
    return Strike(
        victim=f"worker {worker.pid} of {task.name}",
        tasks=(task.name,),
        seen=lambda: said,
        then=lambda: stage.go_on(worker.pid),
        after_s=seconds,
    )


FAULTS: dict[str, tuple[int, Callable[[Stage, float], Strike | None]]] = {
    "scancel": (10, scancel),
    "requeue": (10, requeue),
    "preemption": (7, preemption),
    "node down": (6, node_down),
    "walltime end": (8, walltime_end),
    "slurmctld restart": (4, slurmctld_restart),
    "slurmctld kill": (4, slurmctld_kill),
    "slurmd kill": (6, slurmd_kill),
    "worker kill": (8, worker_kill),
    "shell kill": (4, shell_kill),
    "child kill": (8, child_kill),
    "worker stop": (7, worker_stop),
    "database restart": (5, database_restart),
}
"""Each kind's weight and what does it."""
