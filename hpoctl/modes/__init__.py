"""Modes: each turns a sweep into the job arrays that work it off. Pure planning, no Slurm."""

from __future__ import annotations

from collections.abc import Callable

from hpoctl.modes import async_, batch, sequential
from hpoctl.plan import Limits, Plan
from hpoctl.sweep import Sweep, Tpe
from hpoctl.words import Mode

PLANNERS: dict[Mode, Callable[[Sweep, Limits], Plan]] = {
    Mode.BATCH: batch.plan,
    Mode.SEQUENTIAL: sequential.plan,
    Mode.ASYNC: async_.plan,
}


def plan(sweep: Sweep, limits: Limits) -> Plan:
    """The plan of a sweep in its mode. Raises ConfigError where it cannot run like that."""
    return PLANNERS[sweep.mode or choose(sweep)](sweep, limits)


def choose(sweep: Sweep) -> Mode:
    """`auto`: async for a sampler that learns, batch where all points are known before."""
    return Mode.ASYNC if isinstance(sweep.sampler, Tpe) else Mode.BATCH
