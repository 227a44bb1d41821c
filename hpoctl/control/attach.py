"""The workers of a study: attach more, let them leave, end them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpoctl import status
from hpoctl.arrays import Feeder, full, give_up, hand_over, join, left
from hpoctl.backends import slurm
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.repair import repair_run
from hpoctl.errors import BatchSystemError, StudyError
from hpoctl.plan import JobArray
from hpoctl.record import TrialState
from hpoctl.rundir import RunDir, Submission
from hpoctl.study.location import Kind
from hpoctl.throttle import Place, share
from hpoctl.words import BackendName, nearest

if TYPE_CHECKING:
    from hpoctl.limits import Limits
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

    `instead` withdraws the study's tasks that have not started, those too that are not submitted
    yet, once nothing forbids the new ones. Where tasks are still fed in, the new ones come behind.
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
    wanted = _wanted(opened, tasks, resources, avoided)
    if instead:
        if left(run_dir):
            give_up(run_dir)
        opened.backend.withdraw(opened.ids(), run_dir)
    submissions, notes = _joined(wanted) if _is_fed(opened) else _attached(wanted)
    return Submitted(
        study=opened.run.study,
        run_dir=run_dir.path,
        submissions=submissions,
        waiting=waiting,
        notes=notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """So many workers for a run, by a sweep whose `resources` are theirs."""

    opened: OpenRun
    tasks: int
    avoided: tuple[str, ...]
    sweep: Sweep
    limits: Limits

    def pieces(self, tasks: int, most: int, lanes: int) -> tuple[JobArray, ...]:
        """So many of them in arrays whose scripts are written, within the run's throttle."""
        from hpoctl import fit

        opened = self.opened
        array = JobArray(name=_next_name(opened.run_dir), tasks=tasks, exclude=self.avoided)
        whole = _within_throttle(opened, array, self.sweep.max_running)
        arrays = fit.split([whole], min(most, self.limits.tasks_per_array or most), lanes)
        for piece in arrays:
            script = opened.backend.script(piece, self.sweep, opened.run_dir, opened.run.workdir)
            opened.run_dir.script(piece.name).write_text(script, encoding="utf-8")
        return arrays


_Outcome = tuple[tuple[Submission, ...], tuple[str, ...]]


def _wanted(
    opened: OpenRun, tasks: int, resources: Sequence[str], avoided: tuple[str, ...]
) -> _Wanted:
    """What is asked for. Raises ConfigError where it could never start."""
    from hpoctl import config, fit  # which are slow to load; cancel has no use for them

    sweep = config.load(opened.run_dir.sweep_file, (*opened.run.overrides, *resources))
    limits = opened.backend.limits(newer_than=time.time())
    fit.refuse(sweep.resources, limits)
    if opened.location.kind is Kind.SQLITE:
        _refuse_second_node(opened, sweep, tasks, resources)
    return _Wanted(opened=opened, tasks=tasks, avoided=avoided, sweep=sweep, limits=limits)


def _is_fed(opened: OpenRun) -> bool:
    """Whether its jobs will submit more; where only one may be there, none can."""
    fed = opened.run.fed
    return bool(fed) and min(cap.value for cap in fed) > 1 and bool(left(opened.run_dir))


def _attached(wanted: _Wanted) -> _Outcome:
    """As many of them as may be submitted now."""
    from hpoctl import fit

    opened, tasks = wanted.opened, wanted.tasks
    caps = fit.submit_caps(wanted.sweep.resources, wanted.limits)
    room = opened.backend.room(caps)
    if room == 0:
        raise BatchSystemError(f"nothing attached, as no task may be submitted: {full(caps)}")
    fitting = tasks if room is None else min(tasks, room)
    where = (wanted.sweep, opened.run_dir, opened.run.backend)
    pieces = wanted.pieces(fitting, fitting, fitting)
    submissions = hand_over(pieces, *where, caps=(), resumed=False)
    if fitting == tasks:
        return submissions, ()
    return submissions, (f"{fitting} of {tasks} workers attached: {full(caps)}",)


def _joined(wanted: _Wanted) -> _Outcome:
    """All of them behind what is still fed in: the run's jobs submit them, and we what we may."""
    from hpoctl import fit

    opened, tasks, run_dir = wanted.opened, wanted.tasks, wanted.opened.run_dir
    most, lanes = fit.pieces_fed(opened.run.fed, tasks)
    pieces = join(run_dir, lambda: wanted.pieces(tasks, most, lanes))
    feeder = Feeder(
        run=opened.run,
        run_dir=run_dir,
        sweep=wanted.sweep,
        waits=lambda: True,
        avoided=lambda: wanted.avoided,
    )

    def ended() -> set[str]:
        return {w.task for w in opened.summary().workers if w.ended_at is not None}

    feeder.feed_at_end(ended, task="")  # where all others have looked for the last time
    names = {piece.name for piece in pieces}
    submissions = tuple(s for s in run_dir.submissions() if s.array in names)
    here = sum(submission.tasks for submission in submissions)
    if here == tasks:
        return submissions, ()
    count = f"{here} of {tasks} workers submitted, the others follow as earlier tasks end"
    return submissions, (f"{count}: {full(opened.run.fed)}",)


def _next_name(run_dir: RunDir) -> str:
    """`attached-N`, whose pieces are called attached-N.1 and so on."""
    known = [submission.array for submission in run_dir.submissions()]
    known += [array.name for _, array in run_dir.planned()]
    names = [name.partition(".")[0] for name in known]
    numbers = [int(name[9:]) for name in names if re.fullmatch(r"attached-\d+", name)]
    return f"attached-{max(numbers, default=0) + 1}"


def _within_throttle(opened: OpenRun, array: JobArray, max_running: int | None) -> JobArray:
    """The array so that, with all others of the run, `max_running` tasks run at most."""
    if max_running is None:
        return array
    live = [task.task.rpartition("_")[0] for task in opened.tasks() if task.state in status.LIVE]
    places = [
        Place(name=s.array, at_once=min(s.at_once or s.tasks, live.count(s.id)), after=s.after)
        for s in opened.run_dir.submissions()
        if s.id in live
    ]
    places += [
        Place(name=a.name, at_once=min(a.at_once or a.tasks, a.tasks), after=a.after)
        for a in (left(opened.run_dir) if _is_fed(opened) else ())
    ]
    at_once, after = share(places, max_running)
    return replace(array, at_once=at_once if at_once < array.tasks else None, after=after)


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


def trust_nodes(study: str, nodes: Sequence[str]) -> None:
    """Lets trials run again on nodes that the study avoids, also those of tasks that wait.

    Raises StudyError, before anything is changed, for a node that it does not avoid, and
    BatchSystemError.
    """
    opened = open_run(study)
    opened.refuse_strangers()
    past = opened.store().past
    avoided = past.bad_nodes()
    for node in nodes:
        if node not in avoided:
            known = nearest(node, [*avoided]) if avoided else "it avoids none"
            raise StudyError(f"study '{opened.run.study}' does not avoid node '{node}'; {known}")
    if opened.run.backend is BackendName.SLURM:  # first, as it may not answer
        rest = [node for node in avoided if node not in nodes]
        slurm.exclude(opened.ids(), rest, opened.sweep(), opened.run_dir)
    for node in nodes:
        past.trust(node)


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
