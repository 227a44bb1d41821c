"""The plan: what is queued, what the batch system can take, what it costs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hpoctl.errors import ConfigError
from hpoctl.plan import Cost, cost, queue, trials_per_walltime
from hpoctl.space import Categorical, Float, Int, SearchSpace
from hpoctl.sweep import Estimate, Sweep

SPACE = SearchSpace(
    {"opt": Categorical(choices=("adam", "sgd")), "r": Int(low=1, high=3, step=2)},
)
OPEN = SearchSpace({"lr": Float(low=1e-6, high=1e-2, log=True), "r": Int(low=1, high=64)})
HOURLY = Estimate.model_validate({"trial": "1h", "startup": "15m"})


def sweep(space: SearchSpace = OPEN, **keys: object) -> Sweep:
    known = {"study": "s", "objective": "m:f", "search_space": space, "budget": {"trials": 20}}
    return Sweep.model_validate({**known, **keys})


def test_a_grid_is_queued_cell_by_cell_in_the_order_of_the_file() -> None:
    assert [dict(point) for point in queue(sweep(SPACE, sampler="grid", budget={}))] == [
        {"opt": "adam", "r": 1},
        {"opt": "adam", "r": 3},
        {"opt": "sgd", "r": 1},
        {"opt": "sgd", "r": 3},
    ]


def test_a_manual_list_is_queued_as_it_stands() -> None:
    points = [{"opt": "sgd", "r": 3}, {"opt": "sgd", "r": 3}]
    manual = sweep(SPACE, sampler={"name": "manual", "points": points}, budget={})
    assert [dict(point) for point in queue(manual)] == points


def test_tpe_is_queued_as_exactly_so_many_empty_slots() -> None:
    assert list(queue(sweep(sampler="tpe"))) == [{}] * 20


def test_a_random_queue_is_the_same_for_a_seed_and_another_for_another() -> None:
    one, same = (list(queue(sweep(sampler="random", seed=1))) for _ in range(2))
    assert one == same
    assert one != list(queue(sweep(sampler="random", seed=2)))
    assert len({tuple(point.items()) for point in one}) == 20


def test_a_longer_random_queue_begins_with_the_shorter_one() -> None:
    short = list(queue(sweep(sampler="random", budget={"trials": 5})))
    assert list(queue(sweep(sampler="random", budget={"trials": 9})))[:5] == short


def test_every_point_of_a_random_queue_is_in_the_space() -> None:
    for point in queue(sweep(sampler="random")):
        assert all(value in OPEN.parameters[name] for name, value in point.items())


@pytest.mark.parametrize("sampler", ["random", "qmc", {"name": "qmc", "qmc_type": "halton"}])
def test_points_to_start_with_come_first_and_are_filled_up(sampler: object) -> None:
    begun = sweep(sampler=sampler, start=[{"r": 64}, {"r": 1, "lr": 1e-3}])
    points = list(queue(begun))
    assert len(points) == 20
    assert points[0]["r"] == 64
    assert points[1] == {"lr": 1e-3, "r": 1}
    assert all(set(point) == {"lr", "r"} for point in points)


def test_a_sampler_that_learns_gets_the_points_to_start_with_as_they_stand() -> None:
    begun = sweep(sampler="gp", start=[{"r": 64}, {"r": 1, "lr": 1e-3}], budget={"trials": 4})
    assert list(queue(begun)) == [{"r": 64}, {"r": 1, "lr": 1e-3}, {}, {}]


@pytest.mark.parametrize("kind", ["sobol", "halton"])
@pytest.mark.parametrize("scramble", [True, False])
def test_qmc_leaves_no_gap_and_a_longer_queue_begins_with_the_shorter_one(
    kind: str, scramble: bool
) -> None:
    sampler = {"name": "qmc", "qmc_type": kind, "scramble": scramble}
    sixteen, more = (
        list(queue(sweep(sampler=sampler, budget={"trials": trials}))) for trials in (16, 40)
    )
    assert more[:16] == sixteen
    octaves = {int((int(str(point["r"])) - 1) // 4) for point in sixteen}
    assert len(octaves) >= (16 if kind == "sobol" else 12)


def test_the_cost_counts_starts_and_trials_and_the_way_through_them() -> None:
    paid = cost(sweep(estimate=HOURLY, resources={"gpus": 2}), starts=4, startups=1, trials=5)
    assert paid == Cost(
        makespan=timedelta(hours=5, minutes=15),
        gpu_hours=(20 + 4 * 0.25) * 2,
        startup_share=1 / 21,
    )


def test_without_an_estimate_there_is_no_cost() -> None:
    assert cost(sweep(), starts=4, startups=1, trials=5) is None


def test_without_gpus_there_are_no_gpu_hours() -> None:
    paid = cost(sweep(estimate=HOURLY), starts=4, startups=1, trials=5)
    assert paid is not None
    assert paid.gpu_hours == 0


@pytest.mark.parametrize(("time", "fitting"), [("1h 15m", 1), ("2h 14m", 1), ("2h 15m", 2)])
def test_an_allocation_has_time_for_its_start_and_whole_trials(time: str, fitting: int) -> None:
    assert trials_per_walltime(sweep(resources={"time": time}), HOURLY) == fitting


def test_an_allocation_too_short_for_one_trial_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        trials_per_walltime(sweep(resources={"time": "1h"}), HOURLY)
    assert str(refused.value) == (
        "resources.time is 1:00:00, too short for a start of 0:15:00 and one trial of 1:00:00:"
        " ask for more time, or say 'checkpoints: true' if trials save themselves"
    )
