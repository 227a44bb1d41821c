"""batch: rounds for a sampler that learns, one array for points known before."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpoctl.modes import batch
from hpoctl.plan import JobArray

from .conftest import MakeSweep


def test_known_points_are_one_round_with_a_task_a_trial(make_sweep: MakeSweep) -> None:
    assert batch.plan(make_sweep(81, sampler="grid")).arrays == (
        JobArray(name="round-1", tasks=81, trials_per_task=1),
    )


def test_trials_per_task_packs_several_trials_into_a_task(make_sweep: MakeSweep) -> None:
    plan = batch.plan(make_sweep(10, sampler="random", trials_per_task=4))
    assert plan.arrays == (JobArray(name="round-1", tasks=3, trials_per_task=4),)


def test_workers_throttle_known_points(make_sweep: MakeSweep) -> None:
    (array,) = batch.plan(make_sweep(81, sampler="grid", workers=8)).arrays
    assert (array.tasks, array.at_once) == (81, 8)


def test_no_throttle_stands_where_all_tasks_may_run_at_once(make_sweep: MakeSweep) -> None:
    (array,) = batch.plan(make_sweep(8, sampler="grid", workers=8)).arrays
    assert array.at_once is None


def test_a_sampler_that_learns_gets_rounds_that_wait_for_each_other(make_sweep: MakeSweep) -> None:
    assert batch.plan(make_sweep(10, sampler="tpe", workers=4)).arrays == (
        JobArray(name="round-1", tasks=4, trials_per_task=1),
        JobArray(name="round-2", tasks=4, trials_per_task=1, after=("round-1",)),
        JobArray(name="round-3", tasks=2, trials_per_task=1, after=("round-2",)),
    )


def test_the_cost_counts_a_start_a_task_and_the_waves_of_a_throttle(make_sweep: MakeSweep) -> None:
    paid = batch.plan(
        make_sweep(
            10, sampler="random", workers=5, resources={"gpus": 1, "time": "2h"},
            estimate={"trial": "1h", "startup": "30m"},
        ),
    ).cost  # fmt: skip
    assert paid is not None
    assert paid.makespan == timedelta(hours=3)  # two waves of a start and a trial
    assert paid.gpu_hours == 15
    assert paid.startup_share == pytest.approx(1 / 3)
