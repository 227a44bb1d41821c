"""A run that was submitted, found again: its folder, its sweep, its study, its batch system."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl import rundir
from hpoctl.arrays import BACKENDS, Backend
from hpoctl.errors import StudyError
from hpoctl.record import Look, Summary, TaskRecord
from hpoctl.rundir import Run, RunDir, Submission
from hpoctl.study.location import Location, locate
from hpoctl.study.summary import UnknownSchema, summarize
from hpoctl.words import Gist

if TYPE_CHECKING:
    from hpoctl.study.store import Store
    from hpoctl.sweep import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Arrays that a batch system has accepted; none, and why, where there was nothing to do."""

    study: str
    run_dir: Path
    submissions: tuple[Submission, ...]
    waiting: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that was submitted, found again."""

    run_dir: RunDir
    run: Run
    gist: Gist
    location: Location

    def sweep(self) -> Sweep:
        """The whole sweep, which takes long to read; its time and GPU-hours as they are now."""
        return _load(self.run_dir, self.run)

    def summary(self) -> Summary:
        """The study at a glance; through Optuna where its tables are not known."""
        try:
            return summarize(self.location, self.run.study)
        except UnknownSchema:
            return self.store().summary()

    def store(self) -> Store:
        """The study, open for writing."""
        from hpoctl.study import store

        return store.open_(self.location, self.sweep())

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.run.backend]

    def tasks(self) -> tuple[TaskRecord, ...]:
        """Every array task as the batch system knows it now. Raises BatchSystemError."""
        return self.backend.tasks(self.ids(), self.run_dir)

    def look(self) -> Look:
        """The same as of the last seconds, or longer ago if the batch system does not answer."""
        return self.backend.look(self.ids(), self.run_dir)

    def ids(self) -> list[str]:
        """The ids of its arrays, each once."""
        return list(dict.fromkeys(submission.id for submission in self.run_dir.submissions()))

    def refuse_strangers(self) -> None:
        """Raises StudyError where the run is another user's, who alone may change it."""
        owner = self.run_dir.path.stat().st_uid
        if os.geteuid() not in (0, owner):
            name = _user(owner)
            raise StudyError(
                f"{self.run_dir.path} is a run of user {name}, who alone can change it:"
                f" ask {name}, or submit a study of your own"
            )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def open_run(study: str) -> OpenRun:
    """The run of a study: a name, a run directory, or `last`. Raises StudyError."""
    run_dir = rundir.find(study, os.environ)
    run = run_dir.run()
    gist = run.gist or _load(run_dir, run).gist
    location = locate_study(gist, run.workdir, run_dir)
    return OpenRun(run_dir=run_dir, run=run, gist=gist, location=location)


def _load(run_dir: RunDir, run: Run) -> Sweep:
    from hpoctl import config

    sweep = config.load(run_dir.sweep_file, run.overrides)
    return sweep.model_copy(update={"budget": run_dir.budget(sweep.budget)})


def locate_study(gist: Gist, workdir: Path, run_dir: RunDir) -> Location:
    """Where a sweep's study lives, by the environment of this process. Raises StudyError."""
    return locate(gist.storage, workdir=workdir, journal=run_dir.journal, environ=os.environ)
