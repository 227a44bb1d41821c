"""`why`: what the tasks of a study wait for, and what would let them start."""

from __future__ import annotations

from dataclasses import dataclass

from hpoctl import arrays
from hpoctl.control.opened import open_run
from hpoctl.delay import Delay
from hpoctl.record import TrialState
from hpoctl.status import LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """The delays of a study; `live` tasks are there, `unsubmitted` ones follow as these end."""

    study: str
    delays: tuple[Delay, ...]
    live: int
    unsubmitted: int
    waiting: int


def read_why(study: str) -> Why:
    """Why a study's tasks wait. Raises StudyError, BatchSystemError."""
    opened = open_run(study)
    ids = [submission.id for submission in opened.run_dir.submissions()]
    left = arrays.left(opened.run_dir)
    return Why(
        study=opened.run.study,
        delays=opened.backend.why(ids),
        live=sum(task.state in LIVE for task in opened.tasks()),
        unsubmitted=sum(array.tasks for array in left),
        waiting=opened.summary().counts[TrialState.WAITING],
    )
