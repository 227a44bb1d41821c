"""async: one array of workers that share the queue."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpoctl.modes import async_
from hpoctl.plan import JobArray

from .conftest import MakeSweep

HOURLY = {"trial": "1h", "startup": "15m"}


def test_async_is_one_array_of_workers_without_an_end_by_count(make_sweep: MakeSweep) -> None:
    plan = async_.plan(make_sweep(60, workers=8))
    assert plan.arrays == (JobArray(name="workers", tasks=8),)


def test_async_never_starts_more_workers_than_trials(make_sweep: MakeSweep) -> None:
    (array,) = async_.plan(make_sweep(3, workers=8)).arrays
    assert array.tasks == 3


def test_a_note_names_how_many_workers_the_walltime_needs(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(10, workers=2, estimate=HOURLY, resources={"time": "2h 15m"})
    (note,) = async_.plan(sweep).notes
    assert note == (
        "2 workers have time for 4 trials, 6 would wait: use 5 workers or a longer resources.time"
    )
    enough = make_sweep(10, workers=5, estimate=HOURLY, resources={"time": "2h 15m"})
    assert async_.plan(enough).notes == ()


def test_the_startup_is_paid_once_a_worker(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(9, workers=4, estimate=HOURLY, resources={"time": "8h", "gpus": 1})
    paid = async_.plan(sweep).cost
    assert paid is not None
    assert paid.makespan == timedelta(hours=3, minutes=15)
    assert paid.gpu_hours == 10
    assert paid.startup_share == pytest.approx(0.1)
