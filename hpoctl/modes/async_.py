"""async: W workers share the queue, each loops until no trial waits. Startup is paid W times."""

from __future__ import annotations

import math

from hpoctl.plan import JobArray, Plan, cost, trials_per_walltime
from hpoctl.sweep import Sweep
from hpoctl.words import Mode


def plan(sweep: Sweep) -> Plan:
    """One array of `workers` tasks, never more of them than trials."""
    workers = min(sweep.workers or 1, sweep.trials)
    each = math.ceil(sweep.trials / workers)
    estimate, notes = sweep.estimate, []
    if estimate and (fitting := trials_per_walltime(sweep, estimate)) < each:
        left = sweep.trials - workers * fitting
        notes.append(
            f"{workers} workers have time for {workers * fitting} trials, {left} would wait:"
            f" use {math.ceil(sweep.trials / fitting)} workers or a longer resources.time"
        )
    array = JobArray(name="workers", tasks=workers)
    return Plan(
        mode=Mode.ASYNC,
        trials=sweep.trials,
        arrays=(array,),
        cost=cost(sweep, starts=workers, startups=1, trials=each),
        notes=tuple(notes),
    )
