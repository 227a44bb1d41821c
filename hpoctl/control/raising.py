"""A larger budget: what `extend` is asked for, and how much that is in all."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpoctl.control.opened import OpenRun
from hpoctl.errors import ConfigError
from hpoctl.rundir import Extension

if TYPE_CHECKING:  # which loads Optuna
    from hpoctl.study.store import Store
    from hpoctl.sweep import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """So many trials, seconds or GPU-hours, `more` than there are or in all; as it was `typed`."""

    value: float
    more: bool
    typed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """What is to become of each part of the budget; None leaves it as it is."""

    trials: Amount | None = None
    time: Amount | None = None
    gpu_hours: Amount | None = None

    @property
    def typed(self) -> str:
        given = {"--trials": self.trials, "--time": self.time, "--gpu-hours": self.gpu_hours}
        return " ".join(f"{flag} {amount.typed}" for flag, amount in given.items() if amount)

    @property
    def more(self) -> bool:
        """Whether the same words a second time would mean still more."""
        return any(part.more for part in (self.trials, self.time, self.gpu_hours) if part)


def whole(opened: OpenRun, store: Store, budget: Budget, asked: Raise) -> Extension:
    """The budget in all, as it shall be. Raises ConfigError where a part would shrink.

    What is more counts from the budget, or from what is used already where that is more: so the
    workers that come get it in full.
    """
    now, run, study = time.time(), opened.run_dir.run(), opened.run.study
    trials, hours = run.trials, budget.gpu_hours
    time_s = None if budget.time is None else budget.time.total_seconds()
    if asked.trials:
        there = store.size() - store.retries()
        trials = round(_raised(study, asked.trials, f"--trials {there} trials", there, there))
    if asked.time:
        if time_s is None:
            raise ConfigError(_endless(study, "time"))
        has = f"--time a budget of {words(time_s)}"
        time_s = _raised(study, asked.time, has, time_s, now - run.created_at)
    if asked.gpu_hours:
        if hours is None:
            raise ConfigError(_endless(study, "gpu_hours"))
        has = f"--gpu-hours a budget of {hours:g} GPU-hours"
        hours = _raised(study, asked.gpu_hours, has, hours, store.gpu_hours(now))
    return Extension(
        asked=asked.typed,
        trials=trials,
        at=now,
        done=False,
        time_s=time_s,
        gpu_hours=hours,
        raised_at=now if asked.time or asked.gpu_hours else run.raised_at,
    )


def _endless(study: str, part: str) -> str:
    return (
        f"study '{study}' has no budget.{part}, so nothing of it is ever spent:"
        f" 'hpoctl workers add {study}' attaches workers"
    )


def _raised(study: str, asked: Amount, has: str, before: float, used: float) -> float:
    """How much of one part; `has` is its flag and how much there is in words."""
    if asked.more:
        return max(before, used) + asked.value
    if asked.value < before:
        flag, _, much = has.partition(" ")
        raise ConfigError(
            f"study '{study}' has {much} already, and a budget does not shrink:"
            f" {flag} +{asked.typed} is {asked.typed} more, 'hpoctl workers drain {study}' ends it"
            " early"
        )
    return asked.value


def in_flags(extension: Extension) -> str:
    """The flags that ask for this whole budget."""
    found = [f"--trials {extension.trials}"]
    if extension.time_s is not None:
        found.append(f"--time {words(extension.time_s).replace(' ', '')}")
    if extension.gpu_hours is not None:
        found.append(f"--gpu-hours {extension.gpu_hours:.10g}")
    return " ".join(found)


def words(seconds: float) -> str:
    """A time to the second, rounded up, as a sweep file takes it: `1h 30m`."""
    days, rest = divmod(math.ceil(seconds), 24 * 3600)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s"))
    return " ".join(f"{count}{letter}" for count, letter in parts if count) or "0s"


def spent(opened: OpenRun, store: Store, budget: Budget) -> Iterator[str]:
    """Parts of the budget that would send every worker home, and what gives them more."""
    now, leave = time.time(), "is spent: workers will leave at once"
    time_s = None if budget.time is None else budget.time.total_seconds()
    if time_s is not None and now > opened.run.created_at + time_s:
        yield f"budget.time ({words(time_s)}) {leave}; extend it too, as in --time +1h"
    if budget.gpu_hours is not None and store.gpu_hours(now) >= budget.gpu_hours:
        way = f"extend it too, as in --gpu-hours +{budget.gpu_hours:g}"
        yield f"budget.gpu_hours ({budget.gpu_hours:g}) {leave}; {way}"
