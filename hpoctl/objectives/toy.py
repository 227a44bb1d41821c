"""Objective: a bowl over the numbers of a search space, in no time and without torch.

To try a sweep, a mode or a pruner before real training pays for it. `objective_args`, all optional:

    seconds: 0   how long a trial takes
    steps: 0     how many values it reports on the way, falling to the final one
    fail: 0      share of the trials that fail, from 0 to 1 (true: all of them)
    noise: 0     how far the value may be off, by the trial's seed

`final` and `max_steps`, which `hpoctl train` and `hpoctl fit` add, change nothing.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping

from hpoctl.trial import Pruned, Trial

_ARGUMENTS = ("seconds", "steps", "fail", "noise", "final", "max_steps")


def objective(trial: Trial) -> float:
    """How far the trial's numbers are from the bottom of the bowl, where the value is 0.

    The bottom is at 0.01 for every float and at 3 for every integer; words do not count. Raises
    Pruned, ValueError on unknown arguments, and RuntimeError where `fail` says so.
    """
    seconds, steps, fail, noise, *_ = _arguments(trial.args)
    if random.Random(trial.seed).random() < fail:
        raise RuntimeError(f"trial {trial.number} was told to fail by objective_args.fail")
    value = sum(_distance(number) ** 2 for number in _numbers(trial.params))
    value += noise * random.Random(trial.seed + 1).uniform(-1, 1)
    for step in range(1, int(steps) + 1):
        time.sleep(seconds / steps)
        trial.report(value + 1 - step / steps, step=step)
        if step < steps and trial.should_prune():
            raise Pruned(f"at step {step} of {steps:.0f}")
    if not steps:
        time.sleep(seconds)
    return value


def _arguments(args: Mapping[str, object]) -> list[float]:
    """The values of `_ARGUMENTS`, in their order."""
    if unknown := set(args) - set(_ARGUMENTS):
        raise ValueError(f"{min(unknown)}: unknown; known: {', '.join(_ARGUMENTS)}")
    values = []
    for name in _ARGUMENTS:
        value = args.get(name, 0)
        if not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{name}: is {value!r}, but must be a number from 0 on")
        values.append(float(value))
    return values


def _numbers(tree: Mapping[str, object]) -> Iterator[float]:
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield value


def _distance(number: float) -> float:
    if isinstance(number, int):
        return number - 3
    # asinh is a logarithm of either sign that passes smoothly through 0: a factor of 10 away from
    # the bottom is about 1.
    return (math.asinh(number / 1e-4) - math.asinh(1e-2 / 1e-4)) / math.log(10)
