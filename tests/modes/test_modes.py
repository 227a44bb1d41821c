"""`auto`, and what every mode keeps to."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl import modes
from hpoctl.limits import Limits, Machine
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep
from hpoctl.words import Mode

COUNTS = st.integers(1, 300)


def sweep(trials: int, **keys: object) -> Sweep:
    space = SearchSpace({"a": Int(low=1, high=trials)})
    known = {"study": "s", "objective": "m:f", "search_space": space}
    return Sweep.model_validate({**known, "budget": {"trials": trials}, **keys})


@given(COUNTS, COUNTS, COUNTS, st.sampled_from([*Mode]), st.sampled_from(["tpe", "random", "grid"]))
def test_no_array_has_more_workers_than_trials_and_all_trials_have_a_worker(
    trials: int, workers: int, per_task: int, mode: Mode, sampler: str
) -> None:
    whole = sweep(trials, mode=mode, sampler=sampler, workers=workers, trials_per_task=per_task)
    plan = modes.plan(whole, Limits())
    assert plan.mode is mode
    assert plan.trials == trials
    assert all(1 <= array.tasks <= trials for array in plan.arrays)
    assert all(array.at_once is None or array.at_once < array.tasks for array in plan.arrays)
    if mode is Mode.BATCH:
        room = sum(array.tasks * (array.trials_per_task or 0) for array in plan.arrays)
        assert trials <= room < trials + per_task


@given(COUNTS, COUNTS, COUNTS, st.sampled_from([*Mode]))
def test_arrays_have_different_names_and_wait_for_the_one_before(
    trials: int, workers: int, per_task: int, mode: Mode
) -> None:
    whole = sweep(trials, mode=mode, workers=workers, trials_per_task=per_task)
    arrays = modes.plan(whole, Limits()).arrays
    names = [array.name for array in arrays]
    assert len(set(names)) == len(names)
    assert [array.after for array in arrays] == [(), *((name,) for name in names[:-1])]


@pytest.mark.parametrize(
    ("sampler", "mode"), [("tpe", Mode.ASYNC), ("random", Mode.BATCH), ("grid", Mode.BATCH)]
)
def test_auto_is_async_for_a_sampler_that_learns_and_batch_for_points_known_before(
    sampler: str, mode: Mode
) -> None:
    assert modes.choose(sweep(4, sampler=sampler)) is mode
    assert modes.plan(sweep(4, sampler=sampler, mode="auto"), Limits()).mode is mode


def test_every_mode_has_a_planner() -> None:
    assert set(modes.PLANNERS) == set(Mode)


@pytest.mark.parametrize(
    ("changes", "at_once"),
    [
        ({}, 8),
        ({"resources": {"cpus": 3}}, 2),
        ({"resources": {"gpus": 2}}, 1),
        ({"resources": {"cpus": 99}}, 1),
        ({"workers": 20}, 20),
        ({"workers": 99}, None),
    ],
)
def test_one_machine_runs_no_more_tasks_at_once_than_it_has_room_for(
    changes: dict[str, object], at_once: int | None
) -> None:
    whole = sweep(
        60, sampler="random", mode="batch", estimate={"trial": "10m", "startup": "1m"}, **changes
    )
    planned = modes.plan(whole, Limits(machine=Machine(cpus=8, gpus=3)))
    assert [array.at_once for array in planned.arrays] == [at_once]
    waves = -(-60 // (at_once or 60))
    assert planned.cost is not None
    assert planned.cost.makespan == waves * timedelta(minutes=11)


def test_rounds_and_workers_of_other_modes_are_as_many_as_the_sweep_says() -> None:
    machine = Limits(machine=Machine(cpus=8, gpus=0))
    for changes in ({"mode": "batch", "sampler": "tpe"}, {"mode": "async", "sampler": "random"}):
        arrays = modes.plan(sweep(4, **changes), machine).arrays
        assert {array.tasks for array in arrays} == {1}
