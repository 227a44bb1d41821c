"""The Plan: which trials are queued, which job arrays work them off, and what that costs.

Pure values and functions; how the arrays reach a batch system is the backends' business.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hpoctl.errors import ConfigError
from hpoctl.space import Params
from hpoctl.trial import derive_seed
from hpoctl.words import Mode

if TYPE_CHECKING:  # a command that only reads a study plans nothing
    from hpoctl.limits import Cap
    from hpoctl.samplers import Qmc
    from hpoctl.sweep import Estimate, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArray:
    """`tasks` array tasks, one worker each, at most `at_once` of them running.

    A worker leaves after `trials_per_task` trials (None: when no trial waits). The array starts
    when all that `after` names have ended, whatever way. None of its tasks runs on a node in
    `exclude`.
    """

    name: str
    tasks: int
    at_once: int | None = None
    trials_per_task: int | None = None
    after: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a plan is expected to cost, from the user's estimate of one trial and one start."""

    makespan: timedelta
    gpu_hours: float
    startup_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `submit` does: queue `trials` trials, then submit `arrays` in this order.

    `fed` are the limits on submitted tasks that the arrays do not all fit under at the same time:
    they are submitted as earlier ones end.
    """

    mode: Mode
    trials: int
    arrays: tuple[JobArray, ...]
    cost: Cost | None
    notes: tuple[str, ...] = ()
    fed: tuple[Cap, ...] = ()


def queue(sweep: Sweep) -> Iterator[Params]:
    """The parameters of each trial in order; what is missing of one is chosen at its claim.

    A queue for more trials begins alike.
    """
    from hpoctl.samplers import Grid, Manual, Qmc, Random

    space, starts = sweep.search_space, sweep.starts
    match sweep.sampler:
        case Grid():
            yield from space.grid()
        case Manual(points=points, repeats=repeats):
            for _ in range(repeats or 1):
                yield from points
        case Random():
            for number in range(sweep.trials):
                known = starts[number] if number < len(starts) else {}
                yield space.draw(random.Random(derive_seed(sweep.seed, number)), known)
        case Qmc():
            yield from _without_gaps(sweep, sweep.sampler)
        case _:
            yield from starts
            yield from itertools.repeat({}, sweep.trials - len(starts))


def _without_gaps(sweep: Sweep, sampler: Qmc) -> Iterator[Params]:
    from hpoctl.sequence import low_discrepancy

    space = sweep.search_space
    for number, known in enumerate(sweep.starts):
        yield space.draw(random.Random(derive_seed(sweep.seed, number)), known)
    points = low_discrepancy(
        sampler.qmc_type,
        dimensions=len(space.parameters),
        count=sweep.trials - len(sweep.starts),
        scramble=sampler.scramble,
        seed=sweep.seed,
    )
    for point in points:
        yield space.at(dict(zip(space.parameters, point, strict=True)))


def seed_of(sweep: Sweep, number: int) -> int:
    """Seed of trial `number`; points of a list with `repeats` have those of their repetition."""
    from hpoctl.samplers import Manual

    if isinstance(sweep.sampler, Manual) and sweep.sampler.repeats:
        number //= len(sweep.sampler.points)
    return derive_seed(sweep.seed, number)


def cost(sweep: Sweep, *, starts: int, startups: int, trials: int) -> Cost | None:
    """Cost of so many worker starts, with `startups` and `trials` one after the other on the way.

    None where the sweep has no estimate.
    """
    if sweep.estimate is None:
        return None
    startup, training = starts * sweep.estimate.startup, sweep.trials * sweep.estimate.trial
    hours = (startup + training) / timedelta(hours=1)
    return Cost(
        makespan=startups * sweep.estimate.startup + trials * sweep.estimate.trial,
        gpu_hours=hours * sweep.resources.gpus.count,
        startup_share=startup / (startup + training),
    )


def trials_per_walltime(sweep: Sweep, estimate: Estimate) -> int:
    """How many trials one allocation has time for. Raises ConfigError if there is none.

    A trial that saves itself may take several: it counts as one.
    """
    fitting = (sweep.resources.time - estimate.startup) // estimate.trial
    starts = estimate.startup < sweep.resources.time / 2
    if fitting < 1 and sweep.checkpoints and starts:
        return 1
    if fitting < 1:
        saves = ", or say 'checkpoints: true' if trials save themselves" if starts else ""
        raise ConfigError(
            f"resources.time is {sweep.resources.time}, too short for a start of"
            f" {estimate.startup} and one trial of {estimate.trial}: ask for more time{saves}"
        )
    return fitting
