"""The workers of a study: attach more, let them leave, end them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hpoctl import status
from hpoctl.arrays import full, hand_over, left
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.repair import repair_run
from hpoctl.errors import BatchSystemError, ConfigError
from hpoctl.plan import JobArray
from hpoctl.record import TrialState
from hpoctl.rundir import RunDir
from hpoctl.study.location import Kind

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep


def add_workers(
    study: str,
    workers: int,
    resources: Sequence[str],
    note: Callable[[str], None] = lambda text: None,
    *,
    instead: bool = False,
) -> Submitted:
    """Attaches workers to a study, never more than trials wait; `resources` are overrides.

    `instead` withdraws the study's tasks that have not started, once nothing forbids the new ones.
    Trials that were running on workers that are gone wait again before they are counted; `note`
    is told of a wait for that.
    """
    opened = open_run(study)
    opened.refuse_strangers()
    repair_run(opened, note)
    summary = opened.summary()
    waiting = summary.counts[TrialState.WAITING]
    run_dir, tasks = opened.run_dir, min(workers, waiting)
    if not tasks:
        return Submitted(study=opened.run.study, run_dir=run_dir.path, submissions=(), waiting=0)
    avoided = tuple(summary.bad_nodes)
    arrays, sweep, notes = _planned(opened, tasks, resources, avoided, instead=instead)
    for array in arrays:
        script = opened.backend.script(array, sweep, run_dir, opened.run.workdir)
        run_dir.script(array.name).write_text(script, encoding="utf-8")
    return Submitted(
        study=opened.run.study,
        run_dir=run_dir.path,
        submissions=hand_over(arrays, sweep, run_dir, opened.run.backend, caps=(), resumed=False),
        waiting=waiting,
        notes=notes,
    )


def _planned(
    opened: OpenRun,
    tasks: int,
    resources: Sequence[str],
    avoided: tuple[str, ...],
    *,
    instead: bool,
) -> tuple[tuple[JobArray, ...], Sweep, tuple[str, ...]]:
    """Arrays of so many workers, or as many as there is room for; the sweep; what to say."""
    from hpoctl import config, fit  # which are slow to load; cancel has no use for them

    sweep = config.load(opened.run_dir.sweep_file, (*opened.run.overrides, *resources))
    limits = opened.backend.limits(newer_than=time.time())
    fit.refuse(sweep.resources, limits)
    if opened.location.kind is Kind.SQLITE:
        _refuse_second_node(opened, sweep, tasks, resources)
    if instead:
        ids = [submission.id for submission in opened.run_dir.submissions()]
        opened.backend.withdraw(ids, opened.run_dir)
    caps = fit.submit_caps(sweep.resources, limits)
    room = opened.backend.room(caps)
    if room == 0:
        raise BatchSystemError(f"nothing attached, as no task may be submitted: {full(caps)}")
    fitting = tasks if room is None else min(tasks, room)
    name = _next_name(opened.run_dir)
    array = JobArray(name=name, tasks=fitting, exclude=avoided)
    whole = _within_throttle(opened, array, sweep.max_running)
    arrays = fit.split([whole], limits.tasks_per_array or fitting, fitting)
    if fitting == tasks:
        return arrays, sweep, ()
    return arrays, sweep, (f"{fitting} of {tasks} workers attached: {full(caps)}",)


def _next_name(run_dir: RunDir) -> str:
    """`attached-N`, whose pieces are called attached-N.1 and so on."""
    names = [submission.array.partition(".")[0] for submission in run_dir.submissions()]
    numbers = [int(name[9:]) for name in names if re.fullmatch(r"attached-\d+", name)]
    return f"attached-{max(numbers, default=0) + 1}"


def _within_throttle(opened: OpenRun, array: JobArray, max_running: int | None) -> JobArray:
    """The array so that, with all others of the run, `max_running` tasks run at most.

    It takes what no other array has of the throttle, for good; where they have all of it, it starts
    when one of them has ended, and takes over its share.
    """
    if max_running is None:
        return array
    if left(opened.run, opened.run_dir):
        raise ConfigError("max_running: is taken by arrays that follow; attach when all are there")
    live = [task.task.rpartition("_")[0] for task in opened.tasks() if task.state in status.LIVE]
    submissions = [s for s in opened.run_dir.submissions() if s.id in live]
    followed = {name for submission in submissions for name in submission.after}
    shares = {
        s.array: min(s.at_once or s.tasks, live.count(s.id))
        for s in submissions
        if s.array not in followed
    }
    free = max_running - sum(shares.values())
    after: tuple[str, ...] = ()
    if free <= 0:
        heir = min(shares, key=lambda name: (-shares[name], name))
        free, after = shares[heir], (heir,)
    return replace(array, at_once=free if free < array.tasks else None, after=after)


def _refuse_second_node(
    opened: OpenRun, sweep: Sweep, workers: int, resources: Sequence[str]
) -> None:
    """Counts the workers that run with those that would be added. Raises ConfigError."""
    from hpoctl.control import storage  # with the sweep file's reader

    live = sum(task.state in status.LIVE for task in opened.tasks())
    overrides = (*opened.run.overrides, *resources)
    file = opened.run_dir.sweep_file
    storage.refuse_several_machines(sweep, opened.location, workers + live, file, overrides)


def drain_workers(study: str) -> None:
    """Asks all workers of a study to finish their trial and leave."""
    opened = open_run(study)
    opened.refuse_strangers()
    opened.store().drain(time.time())


def cancel(study: str) -> Submitted:
    """Ends all arrays of a study; trials that wait stay in its queue."""
    opened = open_run(study)
    opened.refuse_strangers()
    submissions = opened.run_dir.submissions()
    opened.run_dir.note_cancel(time.time())  # so that no trial has this end counted against it
    opened.backend.cancel([submission.id for submission in submissions], opened.run_dir)
    waiting = opened.summary().counts[TrialState.WAITING]
    return Submitted(
        study=opened.run.study,
        run_dir=opened.run_dir.path,
        submissions=submissions,
        waiting=waiting,
    )
