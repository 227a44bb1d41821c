"""Constraints: written with a trial's end, read by Optuna's samplers, kept by the best trial."""

from __future__ import annotations

import pytest

from hpoctl.plan import queue
from hpoctl.record import TrialRecord, TrialState
from hpoctl.study import store
from hpoctl.study.importance import importance
from hpoctl.study.location import Kind, Location
from hpoctl.study.store import Claim, Store
from hpoctl.study.summary import summarize
from hpoctl.sweep import Sweep
from hpoctl.words import Cause, Policy
from study.claimers import make_worker
from study.conftest import MakeSweep
from study.test_store import read_by_optuna

X = {"x": {"type": "uniform", "min": 0, "max": 1}}
LEARNING = {"name": "tpe", "n_startup_trials": 5}


def submit(location: Location, sweep: Sweep) -> Store:
    return store.create(location, sweep, queue(sweep), owner="a test")


def claimed(study: Store) -> Claim:
    claim = study.claim(make_worker())
    assert claim is not None
    return claim


def test_the_best_trial_keeps_all_constraints_and_the_others_are_counted(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep())
    above: tuple[dict[str, float], ...] = (
        {"mem": 2.5, "time": -1.0},
        {"mem": 1e-5},
        {"mem": 0.0},
        {"mem": -3.0},
        {},
    )
    for value, constraints in enumerate(above):
        study.complete(claimed(study), [float(value)], {"note": 1.5}, constraints=constraints)
    study.fail(claimed(study), "full", cause=Cause.CUDA_OOM, policy=Policy.INFEASIBLE)
    study.fail(claimed(study), "boom")
    fast, slow = summarize(location, "a study"), study.summary()
    for summary in (fast, slow):
        assert summary.best is not None
        assert (summary.best.number, summary.best.values) == (2, (2.0,))
        assert summary.best.attrs["note"] == 1.5
        assert summary.infeasible == 3
        assert summary.counts[TrialState.COMPLETE] == 5
    records = store.open_(location, make_sweep()).records()
    assert [record.feasible for record in records[:7]] == [
        False,
        False,
        True,
        True,
        True,
        False,
        True,
    ]
    assert records[0].constraints == above[0]
    told = read_by_optuna(location)
    assert told.trials[0].constraints == above[0]
    assert told.best_trial.number == 2
    assert told.trials[5].constraints == {"infeasible": 1.0}


def test_where_every_trial_is_infeasible_there_is_no_best(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep())
    assert summarize(location, "a study").infeasible == 0
    study.complete(claimed(study), [1.0], {}, constraints={"mem": 1.0})
    assert summarize(location, "a study").best is None
    assert study.summary().best is None


def test_a_hundred_infeasible_trials_ahead_do_not_hide_the_best(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep(budget={"trials": 130}))
    for value in range(120):
        study.complete(claimed(study), [float(value)], {}, constraints={"mem": 117.5 - value})
    best = summarize(location, "a study").best
    assert best is not None
    assert best.number == 118


def test_what_is_known_of_an_infeasible_trial_is_kept_once_with_its_end(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep())
    first, second, third = (claimed(study) for _ in range(3))
    for _ in range(2):  # told again, as after an outage
        study.fail(
            first,
            "CUDA out of memory",
            at=1e9,
            cause=Cause.CUDA_OOM,
            policy=Policy.INFEASIBLE,
            attrs={"memory_gb": 11.5},
            constraints={"memory_gb": 3.5},
        )
    study.fail(second, "full", cause=Cause.HOST_OOM, attrs={"host_memory_gb": 3.0})
    study.fail(third, "full", cause=Cause.LOST, policy=Policy.RETRY, attrs={"host_memory_gb": 9.0})
    records = study.records()
    assert records[0].state is TrialState.PRUNED
    assert records[0].constraints == {"memory_gb": 3.5}
    assert records[0].attrs["memory_gb"] == 11.5
    assert records[0].attrs["cause"] == "cuda_oom"
    assert records[1].attrs["host_memory_gb"] == 3.0
    assert records[1].feasible
    assert "host_memory_gb" not in records[2].attrs, "it waits again"
    assert [attempt.number for attempt in study.past.ended()].count(0) == 1


def test_a_trial_of_another_worker_gets_no_constraint(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep())
    late = claimed(study)
    study.return_lost(lambda worker: True)
    other = store.open_(location, make_sweep())
    again = claimed(other)
    assert again.number == late.number
    study.complete(late, [1.0], {}, constraints={"mem": 1.0})
    other.complete(again, [2.0], {})
    record = study.records()[late.number]
    assert (record.values, dict(record.constraints)) == ((2.0,), {})


@pytest.mark.parametrize("told", ["constraint", "infeasible"])
def test_a_sampler_keeps_away_from_where_trials_are_infeasible(
    location: Location, make_sweep: MakeSweep, told: str
) -> None:
    """Values fall with x, and above 0.5 nothing is feasible: only constraints lead to below."""
    sweep = make_sweep(search_space=X, sampler=LEARNING, budget={"trials": 40})
    stores = [submit(location, sweep), store.open_(location, sweep)]
    drawn = []
    for number in range(40):
        study = stores[number % 2]
        claim = claimed(study)
        x = float(str(claim.params["x"]))
        drawn.append(x)
        if x <= 0.5 or told == "constraint":
            study.complete(claim, [-x], {}, constraints={"x": x - 0.5})
        else:
            study.fail(claim, "no", cause=Cause.INFEASIBLE, policy=Policy.INFEASIBLE)
    late = drawn[20:]
    assert sum(x > 0.5 for x in late) < len(late) * 0.45, late
    best = summarize(location, sweep.study).best
    assert best is not None
    assert 0.4 < float(str(best.params["x"])) <= 0.5


def test_with_several_metrics_the_sampler_copes_with_trials_that_came_to_nothing(
    location: Location, make_sweep: MakeSweep
) -> None:
    metrics = [{"name": "a"}, {"name": "b", "goal": "maximize"}]
    sweep = make_sweep(search_space=X, sampler=LEARNING, metrics=metrics, budget={"trials": 24})
    study = submit(location, sweep)
    for number in range(24):
        claim = claimed(study)
        study.report(claim, 1.0, 1)
        if number % 4 == 0:
            study.fail(claim, "full", cause=Cause.CUDA_OOM, policy=Policy.INFEASIBLE)
        elif number % 4 == 1:
            study.prune(claim)
        else:
            x = float(str(claim.params["x"]))
            study.complete(claim, [x, x], {}, constraints={"x": x - 0.5})
    counts = summarize(location, sweep.study).counts
    assert (counts[TrialState.COMPLETE], counts[TrialState.PRUNED]) == (12, 12)


@pytest.mark.parametrize("location", [Kind.SQLITE], indirect=True)
def test_the_parameter_that_decides_is_the_important_one(
    location: Location, make_sweep: MakeSweep
) -> None:
    space = {**X, "y": X["x"], "z": {"type": "categorical", "values": ["a", None]}}
    sweep = make_sweep(search_space=space, budget={"trials": 40})
    study = submit(location, sweep)
    records: list[TrialRecord] = []
    assert importance(sweep, records) == {}
    for _ in range(40):
        claim = claimed(study)
        study.complete(claim, [float(str(claim.params["y"])) ** 2], {})
    found = importance(sweep, study.records())
    assert next(iter(found)) == "y"
    assert found["y"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
