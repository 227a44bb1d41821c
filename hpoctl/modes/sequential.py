"""sequential: one worker works the whole queue off; the sampler has seen every earlier trial."""

from __future__ import annotations

import math
from datetime import timedelta

from hpoctl.plan import JobArray, Plan, cost, trials_per_walltime
from hpoctl.sweep import Sweep
from hpoctl.words import Mode


def plan(sweep: Sweep) -> Plan:
    """A chain of one-task arrays: as many as the trials need by the estimate, else by the budget.

    Links are separate arrays (`afterany`), so that a link that is not needed any more starts, sees
    an empty queue and leaves at once.
    """
    links, notes = _links(sweep)
    arrays = tuple(
        JobArray(name=f"link-{k + 1}", tasks=1, after=(f"link-{k}",) if k else ())
        for k in range(links)
    )
    return Plan(
        mode=Mode.SEQUENTIAL,
        trials=sweep.trials,
        arrays=arrays,
        cost=cost(sweep, starts=links, startups=links, trials=sweep.trials),
        notes=notes,
    )


def _links(sweep: Sweep) -> tuple[int, tuple[str, ...]]:
    if sweep.estimate is not None and sweep.checkpoints:
        useful = sweep.resources.time - sweep.estimate.startup
        useful -= timedelta(seconds=sweep.resources.warning_s)
        if useful > timedelta(0):
            return math.ceil(sweep.trials * sweep.estimate.trial / useful), ()
    if sweep.estimate is not None:
        return math.ceil(sweep.trials / trials_per_walltime(sweep, sweep.estimate)), ()
    if sweep.budget.time is not None:
        return math.ceil(sweep.budget.time / sweep.resources.time), ()
    note = (
        f"one allocation of {sweep.resources.time} is planned: 'estimate: {{trial: 10m}}' or"
        " 'budget: {time: 12h}' lets hpoctl chain as many as the trials need"
    )
    return 1, (note,)
