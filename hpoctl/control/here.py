"""`run`: a whole sweep on this machine, from submission to the last worker."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from hpoctl.control.attach import cancel
from hpoctl.control.opened import open_run
from hpoctl.control.read import read_status, read_trials
from hpoctl.control.submission import Request, submit
from hpoctl.errors import StudyError
from hpoctl.record import TrialState
from hpoctl.status import LIVE, Status
from hpoctl.words import BackendName

_POLL_S = 0.5
_SLURM_POLL_S = 5.0


def run(request: Request, watch: Callable[[Status], None]) -> Status:
    """Submits to this machine, calls `watch` now and then, returns when all workers have left.

    Ctrl-C ends the workers; what they had not begun stays queued.
    """
    here = Request(
        sweep_file=request.sweep_file,
        overrides=(*request.overrides, "backend=local"),
        run_dir=request.run_dir,
    )
    study = str(submit(here).run_dir)
    try:
        return wait(study, watch)
    except KeyboardInterrupt:
        cancel(study)
        raise


def wait(study: str, watch: Callable[[Status], None]) -> Status:
    """Calls `watch` now and then, and returns when no worker of a study is left."""
    opened = open_run(study)
    local = opened.run.backend is BackendName.LOCAL
    while True:
        alive = any(task.state in LIVE for task in opened.tasks())
        now = read_status(study)
        watch(now)
        if not alive:
            return now
        time.sleep(_POLL_S if local else _SLURM_POLL_S)


def check_ended(ended: Status) -> None:
    """Raises StudyError where a sweep did not come to its end, or no trial of it did."""
    counts, logs = ended.summary.counts, ended.run_dir / "logs"
    if left := ended.waiting + counts[TrialState.RUNNING]:
        reasons = sorted({worker.reason for worker in ended.workers if worker.reason})
        raise StudyError(
            f"trials left: {left}, all workers are gone: {'; '.join(reasons)}; see {logs}; once it"
            f" is mended, 'hpoctl workers add {shlex.quote(ended.run.study)} -n 1' goes on"
        )
    if counts[TrialState.FAILED] == sum(counts.values()):
        raise StudyError(f"every trial failed, the first one with: {_first_error(ended)}")
    if ended.summary.infeasible == sum(counts.values()):
        raise StudyError(
            f"every trial is infeasible: 'hpoctl trials {ended.run.study}' says by how much;"
            " give 'constraints' more room, or the search space less"
        )


def _first_error(ended: Status) -> str:
    for record in read_trials(str(ended.run_dir))[0]:
        if error := str(record.attrs.get("error", "")).strip():
            return f"{error.splitlines()[-1]} ('hpoctl logs {ended.run.study} {record.number}')"
    return "no message"
