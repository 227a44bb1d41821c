"""sequential: one worker, and a chain of allocations where one is too short."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpoctl.errors import ConfigError
from hpoctl.modes import sequential
from hpoctl.plan import JobArray

from .conftest import MakeSweep

HOURLY = {"trial": "1h", "startup": "15m"}


def test_the_chain_is_as_long_as_the_estimate_needs(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(5, estimate=HOURLY, resources={"time": "2h 15m"})
    plan = sequential.plan(sweep)
    assert plan.arrays == (
        JobArray(name="link-1", tasks=1),
        JobArray(name="link-2", tasks=1, after=("link-1",)),
        JobArray(name="link-3", tasks=1, after=("link-2",)),
    )
    assert plan.notes == ()


def test_without_an_estimate_the_time_of_the_budget_decides(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(5, budget={"trials": 5, "time": "5h"}, resources={"time": "2h"})
    assert len(sequential.plan(sweep).arrays) == 3


def test_without_both_one_allocation_is_planned_and_a_note_says_so(make_sweep: MakeSweep) -> None:
    plan = sequential.plan(make_sweep(5))
    assert plan.arrays == (JobArray(name="link-1", tasks=1),)
    (note,) = plan.notes
    assert "'estimate: {trial: 10m}'" in note
    assert "'budget: {time: 12h}'" in note


def test_an_allocation_too_short_for_a_trial_is_refused(make_sweep: MakeSweep) -> None:
    with pytest.raises(ConfigError, match="too short for a start of 0:15:00 and one trial"):
        sequential.plan(make_sweep(5, estimate=HOURLY, resources={"time": "1h"}))


def test_the_cost_is_every_start_and_every_trial_one_after_the_other(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(4, estimate=HOURLY, resources={"time": "2h 15m", "gpus": 1})
    paid = sequential.plan(sweep).cost
    assert paid is not None
    assert paid.makespan == timedelta(hours=4, minutes=30)
    assert paid.gpu_hours == 4.5


def test_trials_that_save_themselves_may_be_longer_than_a_walltime(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        2,
        checkpoints=True,
        estimate={"trial": "3h", "startup": "8m"},
        resources={"time": "1h", "warning": "2m"},  # 50 minutes of each are of use
    )
    assert len(sequential.plan(sweep).arrays) == 8
