"""Claims, ends, losses and retries in any order, by any client, against a model of a few lines."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from hpoctl.errors import StudyError
from hpoctl.record import TrialRecord, TrialState, WorkerId, WorkerRecord
from hpoctl.study import store
from hpoctl.study.location import Location
from hpoctl.study.protocol import Claim, Outcome
from hpoctl.study.store import Store
from study.claimers import make_worker
from study.conftest import MakeSweep

_MAX_LOSSES = 2
_CLIENTS = st.integers(0, 1)
_POINTS = [{"lr": 10.0**-n, "layers": n} for n in range(1, 5)]
_names = itertools.count()


@dataclass(slots=True)
class Attempt:
    """A claim as the model knows it; without an outcome it holds the trial."""

    worker: WorkerId
    outcome: Outcome | None = None
    late: float | None = None


@dataclass(slots=True)
class Modelled:
    """A trial as it should be; `before` counts the attempts of the trial that it repeats."""

    params: object
    root: int
    before: int = 0
    state: TrialState = TrialState.WAITING
    attempts: list[Attempt] = field(default_factory=list)
    value: float | None = None

    @property
    def losses(self) -> int:
        return sum(attempt.outcome is Outcome.LOST for attempt in self.attempts)

    def attempt(self, claim: Claim) -> Attempt:
        return self.attempts[claim.attempt - self.before - 1]

    def may_end(self, claim: Claim) -> bool:
        """Whether a result of this claim counts: it holds the trial, or nobody does."""
        mine = self.attempt(claim)
        waits_again = mine.outcome in (Outcome.LOST, Outcome.RETURNED)
        return mine.outcome is None or (waits_again and self.state is TrialState.WAITING)


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of a claim; a worker that is not sure says it again."""

    claim: Claim
    outcome: Outcome
    value: float
    at: float


class Machine(RuleBasedStateMachine):
    """Two clients of one study."""

    workers = Bundle("workers")
    claims = Bundle("claims")
    endings = Bundle("endings")

    def __init__(self, location: Location, make_sweep: MakeSweep) -> None:
        super().__init__()
        self.location, self.make_sweep = location, make_sweep
        self.clients: list[Store] = []
        self.trials: list[Modelled] = []
        self.signed: list[WorkerRecord] = []
        self.drained_at = 0.0
        self.clock = itertools.count(1_000)
        self.ended: dict[int, TrialRecord] = {}
        self.decided: list[Ending] = []
        self.claimed_by: list[tuple[Claim, int]] = []

    @initialize()
    def submit(self) -> None:
        sweep = self.make_sweep(study=f"study {next(_names)}")
        store.create(self.location, sweep, _POINTS, owner="a test")
        self.clients = [store.open_(self.location, sweep) for _ in range(2)]
        self.trials = [Modelled(point, root) for root, point in enumerate(_POINTS)]

    def teardown(self) -> None:
        for client in self.clients:
            client.rest()

    @rule(target=workers, client=_CLIENTS, task=st.sampled_from(["7_0", "7_1"]))
    def sign_on(self, client: int, task: str) -> WorkerRecord:
        worker = make_worker(task, started_at=float(next(self.clock)))
        signed = self.clients[client].sign_on(worker)
        assert signed.life == 1 + sum(known.task == task for known in self.signed)
        self.signed.append(signed)
        return signed

    @rule(target=claims, client=_CLIENTS, worker=workers)
    def claim(self, client: int, worker: WorkerRecord) -> object:
        waiting = [t for t in self.trials if t.state is TrialState.WAITING]
        claim = self.clients[client].claim(worker)
        if claim is None:
            assert not waiting
            return multiple()
        trial = self.trials[claim.number]
        assert trial in waiting
        trial.attempts.append(Attempt(worker.id))
        trial.state = TrialState.RUNNING
        assert claim.attempt == trial.before + len(trial.attempts)
        assert (claim.root, claim.params) == (trial.root, trial.params)
        self.claimed_by.append((claim, client))
        return claim

    @rule(claim=claims, step=st.integers(1, 3))
    def report(self, claim: Claim, step: int) -> None:
        [client] = [client for made, client in self.claimed_by if made is claim]
        holds = self.trials[claim.number].attempt(claim).outcome is None
        assert self.clients[client].report(claim, float(step), step) is not holds

    @rule(
        target=endings,
        claim=claims,
        outcome=st.sampled_from([Outcome.COMPLETE, Outcome.PRUNED, Outcome.FAILED]),
        value=st.sampled_from([0.5, -1.0, math.inf, math.nan]),
    )
    def decide(self, claim: Claim, outcome: Outcome, value: float) -> object:
        if any(made.claim is claim for made in self.decided):
            return multiple()
        ending = Ending(claim, outcome, value, float(next(self.clock)))
        self.decided.append(ending)
        return ending

    @rule(client=_CLIENTS, ending=endings)
    def tell(self, client: int, ending: Ending) -> None:
        study, claim = self.clients[client], ending.claim
        match ending.outcome:
            case Outcome.COMPLETE:
                study.complete(claim, [ending.value], {}, at=ending.at)
            case Outcome.PRUNED:
                study.prune(claim, at=ending.at)
            case _:
                study.fail(claim, "boom", at=ending.at)
        trial, said = self.trials[claim.number], ending.outcome
        mine = trial.attempt(claim)
        if said is Outcome.COMPLETE and math.isnan(ending.value):
            said = Outcome.FAILED
        if trial.may_end(claim):
            mine.outcome, trial.state = said, TrialState[said.name]
            trial.value = ending.value if said is Outcome.COMPLETE else None
        elif mine.outcome is not said and said is Outcome.COMPLETE:
            mine.late = ending.value

    @rule(client=_CLIENTS, worker=workers)
    def lose(self, client: int, worker: WorkerRecord) -> None:
        """A worker is gone, and so is every life that has a successor."""
        latest = {known.task: known.life for known in self.signed}
        gone = {w.id for w in self.signed if w.id == worker.id or w.life < latest[w.task]}
        told = {w.id for w in self.signed if w.started_at < self.drained_at}
        expected = []
        for number, trial in enumerate(self.trials):
            if trial.state is not TrialState.RUNNING or trial.attempts[-1].worker not in gone:
                continue
            expected.append(number)
            was_told = trial.attempts[-1].worker in told
            trial.attempts[-1].outcome = Outcome.RETURNED if was_told else Outcome.LOST
            too_often = not was_told and trial.losses >= _MAX_LOSSES
            trial.state = TrialState.FAILED if too_often else TrialState.WAITING
        assert self.clients[client].return_lost(lambda id_: id_ == worker.id) == expected

    @rule(client=_CLIENTS)
    def drain(self, client: int) -> None:
        self.drained_at = float(next(self.clock))
        self.clients[client].drain(self.drained_at)
        assert [study.drained_at() for study in self.clients] == [self.drained_at] * 2

    @rule(client=_CLIENTS, data=st.data())
    def retry(self, client: int, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.trials)))
        failed = number < len(self.trials) and self.trials[number].state is TrialState.FAILED
        if not failed:
            with pytest.raises(StudyError):
                self.clients[client].retry([number])
            return
        assert self.clients[client].retry([number]) == [len(self.trials)]
        old = self.trials[number]
        attempts = old.before + len(old.attempts)
        self.trials.append(Modelled(old.params, old.root, before=attempts))

    @rule(client=_CLIENTS, point=st.sampled_from(_POINTS))
    def extend(self, client: int, point: dict[str, float]) -> None:
        self.clients[client].append([point])
        self.trials.append(Modelled(point, len(self.trials)))

    @invariant()
    def each_client_sees_the_model(self) -> None:
        for client in self.clients:
            records = client.records()
            assert [_shown(record) for record in records] == [
                _expected(number, trial) for number, trial in enumerate(self.trials)
            ]
            repeats = sum(trial.root != number for number, trial in enumerate(self.trials))
            assert (client.size(), client.retries()) == (len(self.trials), repeats)

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        for record in self.clients[0].records() if self.clients else ():
            if record.ended is not None:
                kept = self.ended.setdefault(record.number, record)
                assert (record.state, record.values) == (kept.state, kept.values)
                assert (record.steps, record.ended) == (kept.steps, kept.ended)

    @invariant()
    def every_worker_is_said_to_hold_what_it_holds(self) -> None:
        held = {
            trial.attempts[-1].worker: number
            for number, trial in enumerate(self.trials)
            if trial.state is TrialState.RUNNING
        }
        for worker in self.clients[0].workers() if self.clients else ():
            assert (worker.trial is not None) == (worker.id in held)


def _shown(record: TrialRecord) -> tuple[object, ...]:
    value = record.values[0] if record.state is TrialState.COMPLETE and record.values else None
    late = record.attrs.get("late_values")
    return (
        record.state,
        dict(record.params),
        value,
        record.attrs.get("attempt", 0),
        record.attrs.get("retry_of", record.number),
        late is not None,
    )


def _expected(number: int, trial: Modelled) -> tuple[object, ...]:
    late = any(attempt.late is not None for attempt in trial.attempts)
    attempts = trial.before + len(trial.attempts)
    return trial.state, trial.params, trial.value, attempts, trial.root, late


def test_any_order_of_steps_keeps_the_study_as_the_model_says(
    location: Location, make_sweep: MakeSweep
) -> None:
    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(location, make_sweep)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to shrink would take minutes; the steps are few
            suppress_health_check=[*HealthCheck],
        ),
    )
