"""What a study keeps of attempts that came to nothing, over every storage."""

from __future__ import annotations

import pytest

from hpoctl.plan import queue
from hpoctl.record import AttemptRecord, Outcome, Stop, TrialState
from hpoctl.study import store
from hpoctl.study.location import Location
from hpoctl.study.store import Claim, Store
from hpoctl.study.summary import summarize
from hpoctl.words import Cause, Policy
from study.claimers import make_worker
from study.conftest import MakeSweep


def submit(location: Location, make_sweep: MakeSweep, **changes: object) -> Store:
    sweep = make_sweep(**changes)
    return store.create(location, sweep, queue(sweep), owner="a test")


def claimed(study: Store, task: str = "7_0") -> Claim:
    claim = study.claim(make_worker(task))
    assert claim is not None
    return claim


def told(attempt: AttemptRecord) -> tuple[object, ...]:
    return (attempt.number, attempt.attempt, attempt.outcome, attempt.cause, attempt.error)


def test_a_policy_decides_what_becomes_of_a_trial_and_its_attempt_is_kept(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep)
    policies = {0: Policy.FAIL, 1: Policy.INFEASIBLE, 2: Policy.REQUEUE, 3: Policy.RETRY}
    claims = [claimed(study) for _ in range(5)]
    study.report(claims[1], 0.5, 1)
    for number, policy in policies.items():
        study.fail(
            claims[number], f"boom \0 \N{SNOWMAN} {number}", cause=Cause.CUDA_OOM, policy=policy
        )
    study.complete(claims[4], [1.0], {})
    records = store.open_(location, make_sweep()).records()
    failed, infeasible, requeued, retried, complete = records[:5]
    assert [record.state for record in records[:5]] == [
        TrialState.FAILED,
        TrialState.PRUNED,
        TrialState.WAITING,
        TrialState.WAITING,
        TrialState.COMPLETE,
    ]
    assert infeasible.values is None
    assert str(failed.attrs["error"]).startswith("boom")
    assert (failed.attrs["cause"], infeasible.attrs["cause"]) == ("cuda_oom", "cuda_oom")
    assert (requeued.attrs.get("lost", 0), retried.attrs.get("lost", 0)) == (0, 1)
    assert "cause" not in complete.attrs

    ended = store.open_(location, make_sweep()).past.ended()
    assert [(a.number, a.outcome, a.cause) for a in ended] == [
        (0, Outcome.FAILED, Cause.CUDA_OOM),
        (1, Outcome.PRUNED, Cause.CUDA_OOM),
        (2, Outcome.RETURNED, Cause.CUDA_OOM),
        (3, Outcome.LOST, Cause.CUDA_OOM),
        (4, Outcome.COMPLETE, None),
    ]
    assert all("\N{SNOWMAN}" in attempt.error for attempt in ended[:4])
    assert {attempt.node for attempt in ended} == {make_worker().node}
    assert all(a.started_at <= a.ended_at for a in ended)
    assert [a.number for a in study.past.ended(last=2)] == [3, 4]
    assert [a.succeeded for a in ended] == [False] * 4 + [True]


def test_a_retry_is_capped_and_each_attempt_is_kept(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep, budget={"trials": 1})
    for _ in range(2):
        study.fail(claimed(study), "boom", cause=Cause.TIMEOUT, policy=Policy.RETRY)
    assert study.claim(make_worker()) is None
    (record,) = study.records()
    assert (record.state, record.attrs["error"]) == (TrialState.FAILED, "boom")
    assert [told(attempt) for attempt in study.past.ended()] == [
        (0, 1, Outcome.LOST, Cause.TIMEOUT, "boom"),
        (0, 2, Outcome.FAILED, Cause.TIMEOUT, "boom"),
    ]


def test_a_trial_that_saved_itself_goes_on_elsewhere_as_often_as_it_takes(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep, budget={"trials": 1}, pruner="median")
    params = []
    for turn in range(4):
        study = store.open_(location, make_sweep(budget={"trials": 1}, pruner="median"))
        claim = claimed(study, f"7_{turn}")
        assert (claim.number, claim.attempt, claim.root) == (0, turn + 1, 0)
        params.append(claim.params)
        for step in (turn, turn + 1):  # it says again what it said last
            study.report(claim, 1.0 / (step + 1), step)
        if turn < 3:
            study.give_back(claim)
    study.complete(claim, [0.1], {})
    (record,) = study.records()
    assert record.state is TrialState.COMPLETE
    assert record.steps == {step: 1.0 / (step + 1) for step in range(5)}
    assert all(given == params[0] for given in params)
    assert "lost" not in record.attrs or not record.attrs["lost"]
    assert not [a for a in study.past.ended() if a.cause is not None]


def test_the_policy_of_the_sweep_decides_on_lost_trials_too(
    location: Location, make_sweep: MakeSweep
) -> None:
    on = {"node_fail": "requeue", "lost": "fail"}
    study = submit(location, make_sweep, on=on)
    for task in ("7_0", "7_1"):
        study.sign_on(make_worker(task))
        claimed(study, task)
    study.return_lost(lambda worker: True, causes={"7_0": Cause.NODE_FAIL})
    assert [record.state for record in study.records()[:2]] == [
        TrialState.WAITING,
        TrialState.FAILED,
    ]
    assert [(a.number, a.cause) for a in study.past.ended()] == [
        (0, Cause.NODE_FAIL),
        (1, Cause.LOST),
    ]


def test_durations_are_those_of_complete_trials(location: Location, make_sweep: MakeSweep) -> None:
    study = submit(location, make_sweep)
    assert study.past.durations(9) == []
    for number in range(4):
        claim = claimed(study)
        if number == 1:
            study.fail(claim, "boom")
        else:
            study.complete(claim, [1.0], {})
    durations = study.past.durations(9)
    assert len(durations) == 3
    assert all(0 <= seconds < 60 for seconds in durations)
    assert len(study.past.durations(2)) == 2


def test_a_stop_and_the_nodes_to_avoid_reach_every_worker_and_the_status(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep)
    assert (study.past.stopped(), study.past.bad_nodes()) == (None, {})
    stop = Stop(at=123.5, why="5 trials in a row failed alike: 'ß' 100%")
    study.past.stop(stop)
    study.past.avoid("n2", "ECC")
    study.past.avoid("n3", "ECC")
    other = store.open_(location, make_sweep())
    assert other.past.stopped() == stop
    assert other.drained_at() == 123.5
    assert other.past.bad_nodes() == {"n2": "ECC", "n3": "ECC"}
    summary = summarize(location, "a study")
    assert (summary.stop, summary.bad_nodes) == (stop, {"n2": "ECC", "n3": "ECC"})
    other.past.trust("n2")
    assert study.past.bad_nodes() == summarize(location, "a study").bad_nodes == {"n3": "ECC"}
    study.past.avoid("n2", "ECC again")
    assert other.past.bad_nodes()["n2"] == "ECC again"


@pytest.mark.parametrize("policy", [Policy.FAIL, Policy.RETRY])
def test_a_failure_that_is_told_twice_is_kept_once(
    location: Location, make_sweep: MakeSweep, policy: Policy
) -> None:
    study = submit(location, make_sweep)
    claim = claimed(study)
    for _ in range(2):
        study.fail(claim, "boom", at=2_000_000_000.0, policy=policy)
    assert [attempt.attempt for attempt in study.past.ended()] == [1]
    state = TrialState.FAILED if policy is Policy.FAIL else TrialState.WAITING
    assert study.records()[0].state is state
