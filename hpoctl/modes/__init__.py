"""Modes: each turns a sweep into the job arrays that work it off. Pure planning, no Slurm."""

from __future__ import annotations

from collections.abc import Callable

from hpoctl.fit import fit
from hpoctl.limits import Limits
from hpoctl.modes import async_, batch, sequential
from hpoctl.plan import Plan
from hpoctl.samplers import Learning
from hpoctl.sweep import Sweep
from hpoctl.words import Mode

PLANNERS: dict[Mode, Callable[[Sweep], Plan]] = {
    Mode.BATCH: batch.plan,
    Mode.SEQUENTIAL: sequential.plan,
    Mode.ASYNC: async_.plan,
}


def plan(sweep: Sweep, limits: Limits, mode: Mode | None = None) -> Plan:
    """The plan of a sweep in a mode (without: its own), as the batch system can take it.

    Raises ConfigError where it cannot run like that.
    """
    mode = mode or sweep.mode or choose(sweep)
    planned = PLANNERS[mode](_counted(sweep, limits) if mode is Mode.BATCH else sweep)
    return fit(planned, sweep.resources, limits, max_running=sweep.max_running)


def choose(sweep: Sweep) -> Mode:
    """`auto`: async for a sampler that learns, batch where all points are known before."""
    return Mode.ASYNC if isinstance(sweep.sampler, Learning) else Mode.BATCH


def _counted(sweep: Sweep, limits: Limits) -> Sweep:
    """The sweep with the workers that one machine has room for, where nobody chose their number.

    Sixty trials must not load sixty models there.
    """
    machine = limits.machine
    if machine is None or sweep.workers is not None or isinstance(sweep.sampler, Learning):
        return sweep
    return sweep.model_copy(update={"workers": machine.holds(sweep.resources)})
