"""A population over every storage: each member has one successor, whoever claims at once."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from hpoctl.plan import queue
from hpoctl.record import Parent, TrialState
from hpoctl.study import store
from hpoctl.study.location import Location
from hpoctl.study.store import Claim, Store
from hpoctl.sweep import Sweep
from study.claimers import make_worker
from study.conftest import MakeSweep

POPULATION = 4


def submit(make_sweep: MakeSweep, location: Location, trials: int = 12) -> tuple[Sweep, Store]:
    sampler = {"name": "pbt", "population": POPULATION}
    sweep = make_sweep(sampler=sampler, budget={"trials": trials})
    return sweep, store.create(location, sweep, queue(sweep), owner="/a/run")


def claimed(study: Store) -> Claim:
    claim = study.claim(make_worker())
    assert claim is not None
    return claim


def test_a_later_trial_waits_for_its_member_and_goes_on_from_a_parent(
    make_sweep: MakeSweep, location: Location
) -> None:
    sweep, study = submit(make_sweep, location)
    first = [claimed(study) for _ in range(POPULATION)]
    assert [claim.number for claim in first] == [0, 1, 2, 3]
    assert study.claim(make_worker()) is None
    assert study.has_waiting()
    study.complete(first[2], [3.0], {})
    after = claimed(store.open_(location, sweep))
    assert (after.number, after.params, after.parent) == (6, first[2].params, Parent(2, 2))
    study.complete(first[0], [1.0], {})
    study.fail(first[1], "no luck")
    assert claimed(study).parent == Parent(0, 0)
    replaced = claimed(study)
    assert (replaced.number, replaced.parent) == (5, Parent(0, 0))
    assert replaced.params != first[0].params
    assert study.claim(make_worker()) is None
    records = {record.number: record for record in study.records()}
    assert [records[n].attrs.get("parent") for n in (2, 4, 5, 6)] == [None, 0, 0, 2]
    assert records[5].params == replaced.params


def test_a_trial_that_waits_again_keeps_its_parameters_and_its_parent(
    make_sweep: MakeSweep, location: Location
) -> None:
    sweep, study = submit(make_sweep, location)
    for value in range(POPULATION):
        study.complete(claimed(study), [float(value)], {})
    given = [claimed(study) for _ in range(POPULATION)]
    study.give_back(given[3])
    again = claimed(store.open_(location, sweep))
    assert (again.number, again.attempt) == (7, 2)
    assert (again.params, again.parent) == (given[3].params, given[3].parent)
    assert again.parent is not None


def test_a_repetition_of_a_failed_trial_goes_on_from_the_same_parent(
    make_sweep: MakeSweep, location: Location
) -> None:
    _, study = submit(make_sweep, location, trials=8)
    for value in range(POPULATION):
        study.complete(claimed(study), [float(value)], {})
    running = [claimed(study) for _ in range(POPULATION)]
    failed = running[3]
    study.fail(failed, "no luck")
    assert study.retry([7]) == [8]
    assert study.claim(make_worker()) is None  # trial 4 runs, and 8 is the next of its member
    study.complete(running[0], [1.0], {})
    again = claimed(study)
    assert (again.number, again.root) == (8, 7)
    assert (again.params, again.parent) == (failed.params, failed.parent)


def test_processes_that_claim_at_once_make_one_successor_each(
    make_sweep: MakeSweep, location: Location
) -> None:
    """Eight of them on four members, so that most claims find every member taken."""
    trials = 40
    sweep, study = submit(make_sweep, location, trials=trials)
    with ProcessPoolExecutor(8, get_context("forkserver")) as pool:
        tasks = [pool.submit(_work, location, sweep, f"1_{i}") for i in range(8)]
        taken = [claim for task in tasks for claim in task.result(timeout=120)]
    assert sorted(number for number, _, _ in taken) == [*range(trials)]
    at = {number: (begun, ended) for number, begun, ended in taken}
    for number in range(POPULATION, trials):
        assert at[number - POPULATION][1] <= at[number][0], "begun before its member was there"
    records = study.records()
    assert all(record.state is TrialState.COMPLETE for record in records)
    for record in records[POPULATION:]:
        parent = int(str(record.attrs["parent"]))
        assert at[parent][1] <= at[record.number][0]
        own = records[record.number - POPULATION]
        assert (record.params == own.params) == (parent == own.number)


def _work(location: Location, sweep: Sweep, task: str) -> list[tuple[int, float, float]]:
    """Works off what it is given, until nothing waits; each trial with its times."""
    study, taken = store.open_(location, sweep), []
    worker = study.sign_on(make_worker(task))
    while study.has_waiting():
        if (claim := study.claim(worker)) is not None:
            begun = time.monotonic()
            taken.append((claim.number, begun, time.monotonic()))
            study.complete(claim, [float(hash(str(claim.params)) % 1000)], {})
    return taken
