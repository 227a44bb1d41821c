"""The workers of a study: attach more, let them leave, end them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpoctl import status
from hpoctl.control.opened import OpenRun, Submitted, open_run, submit_arrays
from hpoctl.control.repair import repair_run
from hpoctl.plan import JobArray
from hpoctl.record import TrialState
from hpoctl.study.location import Kind

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep


def add_workers(
    study: str,
    workers: int,
    resources: Sequence[str],
    note: Callable[[str], None] = lambda text: None,
) -> Submitted:
    """Attaches workers to a study, never more than trials wait; `resources` are overrides.

    Trials that were running on workers that are gone wait again before they are counted; `note`
    is told of a wait for that.
    """
    opened = open_run(study)
    opened.refuse_strangers()
    repair_run(opened, note)
    waiting = opened.summary().counts[TrialState.WAITING]
    run_dir, tasks = opened.run_dir, min(workers, waiting)
    if not tasks:
        return Submitted(study=opened.run.study, run_dir=run_dir.path, submissions=(), waiting=0)
    from hpoctl import config  # which is slow to load; cancel has no use for it

    sweep = config.load(run_dir.sweep_file, (*opened.run.overrides, *resources))
    attached = sum(s.array.startswith("attached-") for s in run_dir.submissions())
    array = JobArray(name=f"attached-{attached + 1}", tasks=tasks)
    if opened.location.kind is Kind.SQLITE:
        _refuse_second_node(opened, sweep, tasks, resources)
    script = opened.backend.script(array, sweep, run_dir)
    run_dir.script(array.name).write_text(script, encoding="utf-8")
    submissions = submit_arrays([array], sweep, run_dir, opened.run, resumed=False)
    return Submitted(
        study=opened.run.study, run_dir=run_dir.path, submissions=submissions, waiting=waiting
    )


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
