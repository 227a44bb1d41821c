"""batch: rounds of one array each; every task runs `trials_per_task` trials and leaves.

Where the points are known before (grid, random, qmc, manual) one round does; a sampler that learns
gets rounds of `workers` tasks, each round starting when the one before has ended.
"""

from __future__ import annotations

import math

from hpoctl.plan import Cost, JobArray, Plan, cost, trials_per_walltime
from hpoctl.samplers import Learning
from hpoctl.sweep import Sweep
from hpoctl.words import Mode


def plan(sweep: Sweep) -> Plan:
    """One round for known points, throttled to `workers`; else ceil(trials / round) rounds."""
    if isinstance(sweep.sampler, Learning):
        arrays = _rounds(sweep)
    else:
        tasks = math.ceil(sweep.trials / sweep.trials_per_task)
        at_once = sweep.workers if sweep.workers and sweep.workers < tasks else None
        arrays = (_array(sweep, "round-1", tasks, at_once=at_once),)
    return Plan(
        mode=Mode.BATCH,
        trials=sweep.trials,
        arrays=arrays,
        cost=_cost(sweep, arrays),
        notes=_notes(sweep),
    )


def _notes(sweep: Sweep) -> tuple[str, ...]:
    if sweep.estimate is None:
        return ()
    fitting = trials_per_walltime(sweep, sweep.estimate)
    if sweep.trials_per_task <= fitting:
        return ()
    return (
        f"a task has time for {fitting} trials, not for {sweep.trials_per_task}, and some would"
        f" wait: use trials_per_task: {fitting} or a longer resources.time",
    )


def _rounds(sweep: Sweep) -> tuple[JobArray, ...]:
    tasks = math.ceil(sweep.trials / sweep.trials_per_task)
    at_once = sweep.workers or 1
    count = math.ceil(tasks / at_once)
    return tuple(
        _array(
            sweep,
            f"round-{k + 1}",
            min(at_once, tasks - k * at_once),
            after=(f"round-{k}",) if k else (),
        )
        for k in range(count)
    )


def _array(
    sweep: Sweep, name: str, tasks: int, *, at_once: int | None = None, after: tuple[str, ...] = ()
) -> JobArray:
    return JobArray(
        name=name,
        tasks=tasks,
        at_once=at_once,
        trials_per_task=sweep.trials_per_task,
        after=after,
    )


def _cost(sweep: Sweep, arrays: tuple[JobArray, ...]) -> Cost | None:
    waves = sum(math.ceil(array.tasks / (array.at_once or array.tasks)) for array in arrays)
    return cost(
        sweep,
        starts=sum(array.tasks for array in arrays),
        startups=waves,
        trials=waves * sweep.trials_per_task,
    )
