"""Hands the arrays of a run to the batch system: each once, whoever does it and whoever is killed.

`hpoctl submit` hands over what there is room for. Where the site lets a user submit only so many
tasks, workers hand over the rest as tasks end: nothing runs on the login node for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpoctl.backends import local, slurm
from hpoctl.errors import BatchSystemError
from hpoctl.record import TaskState
from hpoctl.rundir import Run, RunDir, Submission
from hpoctl.study.lock import FileLock, Hold, LockLost
from hpoctl.words import BackendName

if TYPE_CHECKING:
    from hpoctl.delay import Delay
    from hpoctl.limits import Cap, Limits
    from hpoctl.plan import JobArray
    from hpoctl.record import Charge, Fate, Look, TaskRecord, WorkerId, WorkerRecord
    from hpoctl.sweep import Sweep

log = logging.getLogger(__name__)

_FEEDING = (TaskState.PENDING, TaskState.RUNNING, TaskState.REQUEUED, TaskState.SUSPENDED)
_LAST_S = 60.0  # that the last worker waits for the others to be gone in Slurm's eyes too
_OTHERS_S = 10.0  # that any other one waits for the same
_LOOK_S = 2.0

_LONGEST_S = 150.0  # that somebody who lives may take to hand over one array: two commands of 60 s


class Backend(Protocol):
    """What a module of `backends/` offers."""

    def script(
        self, array: JobArray, sweep: Sweep, run_dir: RunDir, workdir: Path | None = None
    ) -> str: ...
    def submit(
        self, script: Path, array: JobArray, sweep: Sweep, run_dir: RunDir, after: Sequence[str]
    ) -> str: ...
    def find(self, script: Path) -> str | None: ...
    def tasks(self, ids: Sequence[str], run_dir: RunDir) -> tuple[TaskRecord, ...]: ...
    def look(self, ids: Sequence[str], run_dir: RunDir) -> Look: ...
    def fates_by(
        self, look: Look, workers: Sequence[WorkerRecord], run_dir: RunDir
    ) -> Mapping[WorkerId, Fate]: ...
    def charges(self, ids: Sequence[str], run_dir: RunDir) -> tuple[Charge, ...] | None: ...
    def remembered(self, run_dir: RunDir) -> tuple[Charge, ...] | None: ...
    def cancel(self, ids: Sequence[str], run_dir: RunDir) -> None: ...
    def limits(self, newer_than: float) -> Limits: ...
    def room(self, caps: Sequence[Cap]) -> int | None: ...
    def withdraw(self, ids: Sequence[str], run_dir: RunDir) -> None: ...
    def why(self, ids: Sequence[str]) -> tuple[Delay, ...]: ...


BACKENDS: dict[BackendName, Backend] = {BackendName.SLURM: slurm, BackendName.LOCAL: local}


def hand_over(
    arrays: Sequence[JobArray],
    sweep: Sweep,
    run_dir: RunDir,
    name: BackendName,
    *,
    caps: Sequence[Cap],
    resumed: bool,
) -> tuple[Submission, ...]:
    """Submits the arrays that the ledger does not hold yet, in order, while `caps` leave room.

    Each is written down once accepted, so that whoever goes on after a kill (`resumed`) looks for
    one array only that may be there and not in the ledger: the next one. Gives those accepted now
    or before. Raises BatchSystemError.
    """
    with _lock(run_dir).held() as hold:
        return _hand_over(hold, arrays, sweep, run_dir, name, caps=caps, resumed=resumed)


def _hand_over(
    hold: Hold,
    arrays: Sequence[JobArray],
    sweep: Sweep,
    run_dir: RunDir,
    name: BackendName,
    *,
    caps: Sequence[Cap],
    resumed: bool,
) -> tuple[Submission, ...]:
    backend, names = BACKENDS[name], {array.name for array in arrays}
    accepted = {submission.array: submission for submission in run_dir.submissions()}
    room = backend.room(caps)
    for array in [array for array in arrays if array.name not in accepted]:
        if room is not None and room < array.tasks:
            break
        script = run_dir.script(array.name)
        id_ = backend.find(script) if resumed else None
        resumed = False
        hold.check()
        after = [accepted[earlier].id for earlier in array.after]
        submission = Submission(
            array=array.name,
            id=id_ or backend.submit(script, array, sweep, run_dir, after),
            tasks=array.tasks,
            backend=name,
            at=time.time(),
            at_once=array.at_once,
            after=array.after,
        )
        run_dir.append(submission)
        accepted[array.name] = submission
        if room is not None and id_ is None:  # one that was found is counted already
            room -= array.tasks
    return tuple(submission for array, submission in accepted.items() if array in names)


def join(run_dir: RunDir, decide: Callable[[], Sequence[JobArray]]) -> tuple[JobArray, ...]:
    """Plans further arrays of a run that is still fed in; none is submitted while one decides.

    Their scripts have to be there when they are decided on.
    """
    with _lock(run_dir).held() as hold:
        decided = tuple(decide())
        hold.check()
        run_dir.join(decided, time.time())
    return decided


def give_up(run_dir: RunDir) -> None:
    """Nothing that is planned and not submitted will be, and nobody is submitting it right now."""
    with _lock(run_dir).held():
        run_dir.note_withdrawal(time.time())


def full(caps: Sequence[Cap]) -> str:
    """Why there is no room, in words."""
    from hpoctl.fit import allowance

    return "; ".join(allowance(cap) for cap in caps)


def _lock(run_dir: RunDir) -> FileLock:
    return FileLock(run_dir.plan_file, stopped_s=_LONGEST_S, silent_s=_LONGEST_S)


def missing(run_dir: RunDir) -> tuple[JobArray, ...]:
    """The planned arrays that were never submitted."""
    return _missing(run_dir, since=0.0)


def left(run_dir: RunDir) -> tuple[JobArray, ...]:
    """Those of them that still will be: nobody has cancelled the run since, or replaced them."""
    return _missing(run_dir, since=run_dir.given_up_at())


def _missing(run_dir: RunDir, *, since: float) -> tuple[JobArray, ...]:
    accepted = {submission.array for submission in run_dir.submissions()}
    planned = [array for at, array in run_dir.planned() if at >= since]
    return tuple(array for array in planned if array.name not in accepted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeder:
    """From inside an allocation: submits the arrays that there was no room for.

    `waits` says whether any trial does, `avoided` the nodes that are broken. A worker has better
    things to do than to fail on this: who starts or leaves next tries again.
    """

    run: Run
    run_dir: RunDir
    sweep: Sweep
    waits: Callable[[], bool]
    avoided: Callable[[], Collection[str]] = tuple

    def feed(self) -> int:
        """Submits what there is room for by now, if any trial waits, and gives how many arrays."""
        before = {array.name for array in self.left()}
        if not before or not self.waits():
            return 0
        exclude = tuple(self.avoided())
        name, caps = self.run.backend, self.run.fed
        try:
            with _lock(self.run_dir).held() as hold:
                pieces = [
                    replace(array, exclude=tuple(dict.fromkeys((*array.exclude, *exclude))))
                    for array in self.left()  # by now: others may have joined them, or replaced
                ]
                where = (self.sweep, self.run_dir, name)
                _hand_over(hold, pieces, *where, caps=caps, resumed=True)
        except (BatchSystemError, LockLost, OSError) as refused:
            log.warning("no further array submitted from here: %s", refused)
        done = len(before - {array.name for array in self.left()})
        if done:
            log.info("submitted %d further arrays of this run", done)
        return done

    def left(self) -> tuple[JobArray, ...]:
        """What is still to be submitted, of a run that is fed in."""
        return left(self.run_dir) if self.run.fed else ()

    def feed_at_start(self) -> None:
        """`feed`, unless another worker is at it."""
        if not _lock(self.run_dir).link.is_symlink():
            self.feed()

    def feed_at_end(self, ended: Callable[[], Collection[str]], task: str) -> None:
        """`feed`, where nobody comes after us until those that have ended count no more in Slurm.

        `ended` gives the tasks whose workers have left: what they did for the last time lies behind
        them. Tasks that leave at the same moment would otherwise each see the others as still
        there. Where all of them wait so, they all count: all but the first one, by its name, give
        up soon.
        """
        begun = time.monotonic()
        while not self.feed():
            run = self.run
            if not self.left() or min(cap.value for cap in run.fed) == 1:
                return
            ids = [submission.id for submission in self.run_dir.submissions()]
            try:
                tasks = BACKENDS[run.backend].tasks(ids, self.run_dir)
            except BatchSystemError:
                return
            there = {known.task for known in tasks if known.state in _FEEDING}
            patience_s = _LAST_S if task == min(there, default=task) else _OTHERS_S
            late = time.monotonic() > begun + patience_s
            if there - set(ended()) or not self.waits() or late:
                return
            time.sleep(_LOOK_S)
