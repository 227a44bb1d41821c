"""`run`: a whole sweep on this machine, from submission to the last worker."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpoctl.control.attach import cancel
from hpoctl.control.opened import open_run
from hpoctl.control.read import read_status
from hpoctl.control.submit import Request, submit
from hpoctl.record import TaskState
from hpoctl.status import Status

_POLL_S = 0.5


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
    opened = open_run(study)
    try:
        while True:
            alive = any(task.state is TaskState.RUNNING for task in opened.tasks())
            now = read_status(study)
            watch(now)
            if not alive:
                return now
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        cancel(study)
        raise
