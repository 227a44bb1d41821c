"""async: one array of workers that share the queue."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpoctl.errors import ConfigError
from hpoctl.modes import async_
from hpoctl.plan import JobArray, Limits

from .conftest import MakeSweep

HOURLY = {"trial": "1h", "startup": "15m"}


def test_async_is_one_array_of_workers_without_an_end_by_count(make_sweep: MakeSweep) -> None:
    plan = async_.plan(make_sweep(60, workers=8), Limits())
    assert plan.arrays == (JobArray(name="workers", tasks=8),)


def test_async_never_starts_more_workers_than_trials(make_sweep: MakeSweep) -> None:
    (array,) = async_.plan(make_sweep(3, workers=8), Limits()).arrays
    assert array.tasks == 3


def test_a_note_names_how_many_workers_the_walltime_needs(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(10, workers=2, estimate=HOURLY, resources={"time": "2h 15m"})
    (note,) = async_.plan(sweep, Limits()).notes
    assert note == (
        "2 workers have time for 4 trials, 6 would wait: use 5 workers or a longer resources.time"
    )
    enough = make_sweep(10, workers=5, estimate=HOURLY, resources={"time": "2h 15m"})
    assert async_.plan(enough, Limits()).notes == ()


def test_more_workers_than_the_cluster_allows_are_refused_with_a_value_that_passes(
    make_sweep: MakeSweep,
) -> None:
    with pytest.raises(ConfigError) as refused:
        async_.plan(make_sweep(5000, workers=2000), Limits(tasks_per_array=1001))
    assert str(refused.value) == (
        "array 'workers' has 2000 tasks, this cluster allows 1001 (MaxArraySize): use workers: 1001"
    )
    async_.plan(make_sweep(5000, workers=1001), Limits(tasks_per_array=1001))


def test_the_startup_is_paid_once_a_worker(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(9, workers=4, estimate=HOURLY, resources={"time": "8h", "gpus": 1})
    paid = async_.plan(sweep, Limits()).cost
    assert paid is not None
    assert paid.makespan == timedelta(hours=3, minutes=15)
    assert paid.gpu_hours == 10
    assert paid.startup_share == pytest.approx(0.1)
