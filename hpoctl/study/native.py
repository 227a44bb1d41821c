"""A study through Optuna's own storages: the journal, and tables of a schema not known here.

Every step is Optuna's API, so it is right wherever Optuna is, and slow on a database. Optuna's API
has no guarded write; on a journal, whose lock is ours, each step looks and writes while nobody else
writes, and all that it writes is there or nothing of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import optuna

from hpoctl import hours
from hpoctl.plan import seed_of
from hpoctl.population import is_ready, members, succeed
from hpoctl.record import Summary, TrialState, WorkerId, WorkerRecord
from hpoctl.study import translate
from hpoctl.study.database import PATIENCE_S, REPORT_PATIENCE_S
from hpoctl.study.native_past import has_failed, note_failure
from hpoctl.study.native_queue import NativeQueue
from hpoctl.study.protocol import (
    CONSTRAINT_KEY,
    DRAIN_KEY,
    LATE_KEY,
    NO_CAUSES,
    NOTHING,
    PARENT_KEY,
    WORKER_KEY,
    Claim,
    IsGone,
    Outcome,
    Verdict,
    judge,
    judge_loss,
    or_succeeded,
    sorted_workers,
    tasks_told_to_leave,
    with_what_is_known,
    written_off,
)
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)
_AT_ONCE = 1_000  # trials queued in one write, which holds the journal's lock for so long
_T = TypeVar("_T")
_Trial = optuna.trial.FrozenTrial
_RUNNING, _WAITING = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING


class NativeStore(NativeQueue):
    """One study, open for reading and writing."""

    def claim(self, worker: WorkerRecord) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""
        taken = self._exclusively(lambda: self._take(worker))
        if taken is None:
            return None
        trial_id, number, attempt, root = taken
        claim = Claim(number=number, params={}, trial_id=trial_id, attempt=attempt, root=root)
        frozen = self._storage.get_trial(trial_id)
        params = self._sweep.search_space.whole(frozen.params)
        if params is not None:
            return replace(claim, params=params, parent=translate.parent(frozen))
        if 0 < members(self._sweep) <= number:
            return self._succeed(claim)
        return replace(claim, params=translate.sample(self._study, trial_id, self._sweep))

    def _succeed(self, claim: Claim) -> Claim:
        """The next stretch of a member: parameters and parent are kept together, or neither is."""
        new = succeed(self._sweep, claim.number, self.records())
        given = translate.template(self._sweep.search_space, new.params)

        def write() -> None:
            if new.parent is not None:
                self._storage.set_trial_system_attr(claim.trial_id, PARENT_KEY, new.parent)
            for name, distribution in given.distributions.items():
                inner = distribution.to_internal_repr(new.params[name])
                self._storage.set_trial_param(claim.trial_id, name, inner, distribution)

        self._exclusively(write)
        return replace(claim, params=new.params, parent=new.parent)

    def report(
        self, claim: Claim, value: float, step: int, *, patience_s: float = REPORT_PATIENCE_S
    ) -> bool:
        """Keeps the first metric's value at a step; True if the trial shall end; see `Store`."""

        several = len(self._sweep.objectives) > 1  # Optuna's samplers ask for one direction then

        def write() -> bool:
            held = self._holds(claim)
            if held and not several:
                self._storage.set_trial_intermediate_value(claim.trial_id, step, value)
            return held

        if not self._exclusively(write, patience_s=patience_s):
            return True
        if several:
            return False
        frozen = self._storage.get_trial(claim.trial_id)
        return bool(self._study.pruner.prune(self._study, frozen))  # it may answer in numpy's bool

    def complete(
        self,
        claim: Claim,
        values: Sequence[float],
        attrs: Mapping[str, object],
        *,
        at: float | None = None,
        constraints: Mapping[str, float] = NOTHING,
    ) -> None:
        """Ends a trial with its values; Optuna takes no other moment than now. See `Store`."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN", cause=Cause.NAN)
            return
        given = [float(value) for value in values]
        complete = optuna.trial.TrialState.COMPLETE

        def write() -> bool:
            return self._end(claim, complete, lambda _: given, attrs, constraints=constraints)

        if not self._settle(claim, write):
            key = f"{LATE_KEY}{claim.number}:{claim.attempt}"  # a finished trial takes nothing more
            self._storage.set_study_system_attr(self._study_id, key, given)

    def prune(self, claim: Claim, *, at: float | None = None) -> None:
        """Ends a trial early; its last report becomes its value."""
        pruned = optuna.trial.TrialState.PRUNED
        self._settle(claim, lambda: self._end(claim, pruned, self._last_report, {}))

    def fail(
        self,
        claim: Claim,
        error: str,
        *,
        at: float | None = None,
        cause: Cause = Cause.ERROR,
        policy: Policy = Policy.FAIL,
        attrs: Mapping[str, object] = NOTHING,
        constraints: Mapping[str, float] = NOTHING,
    ) -> None:
        """Ends an attempt that came to nothing; see `Store`."""

        def write() -> bool:
            frozen = self._storage.get_trial(claim.trial_id)
            verdict = judge(cause, error, policy, frozen.user_attrs.get("lost", 0))
            verdict = with_what_is_known(verdict, attrs, constraints)
            if has_failed(frozen, claim.attempt, verdict):
                return True
            if verdict.outcome is not Outcome.FAILED:
                return self._set_free(claim, verdict)
            failed = optuna.trial.TrialState.FAIL
            return self._end(claim, failed, lambda _: None, verdict.kept, verdict)

        self._settle(claim, write)

    def give_back(self, claim: Claim, *, at: float | None = None) -> None:
        """Lets a trial wait again that saved itself."""
        saved = Verdict(outcome=Outcome.RETURNED, error=None)
        self._settle(claim, lambda: self._set_free(claim, saved))

    def _settle(self, claim: Claim, write: Callable[[], bool]) -> bool:
        """Writes how an attempt ended; False if its trial is another's by now."""
        try:
            ended = self._exclusively(write)
        except optuna.exceptions.UpdateFinishedTrialError:  # tables without a lock of ours
            ended = _ended_by(self._storage.get_trial(claim.trial_id)) == claim.attempt
        if not ended:
            log.warning("trial %d was given to another worker meanwhile", claim.number)
        return ended

    def _end(
        self,
        claim: Claim,
        state: optuna.trial.TrialState,
        values: Callable[[_Trial], Sequence[float] | None],
        attrs: Mapping[str, object],
        verdict: Verdict | None = None,
        constraints: Mapping[str, float] = NOTHING,
    ) -> bool:
        """Ends a trial if it is this claim's, or waits again; False if it is another's result."""
        frozen = self._storage.get_trial(claim.trial_id)
        if frozen.state.is_finished():
            return _ended_by(frozen) == claim.attempt
        ours = frozen.user_attrs.get("attempt") == claim.attempt
        if frozen.state is _RUNNING and not ours:
            return False
        if frozen.state is _WAITING:
            self._start(claim.trial_id)
        if verdict is not None:
            note_failure(self._storage, claim.trial_id, verdict)
        self._keep(claim.trial_id, {**attrs, **({} if ours else {"ended_by": claim.attempt})})
        self._constrain(claim.trial_id, constraints)
        self._storage.set_trial_state_values(claim.trial_id, state, values(frozen))
        return True

    def _set_free(self, claim: Claim, verdict: Verdict) -> bool:
        held = self._holds(claim)
        if held:
            self._give_back(self._storage.get_trial(claim.trial_id), verdict)
        return held

    def _last_report(self, frozen: _Trial) -> Sequence[float] | None:
        steps = frozen.intermediate_values
        last = steps[max(steps)] if steps and len(self._sweep.objectives) == 1 else math.nan
        return None if math.isnan(last) else [last]

    def _holds(self, claim: Claim) -> bool:
        frozen = self._storage.get_trial(claim.trial_id)
        return frozen.state is _RUNNING and frozen.user_attrs.get("attempt") == claim.attempt

    def return_lost(
        self,
        is_gone: IsGone,
        *,
        cancelled_at: float = 0.0,
        causes: Mapping[str, Cause] = NO_CAUSES,
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; see `Store`."""
        workers = self.workers()
        is_gone = or_succeeded(is_gone, workers)
        told = tasks_told_to_leave(workers, max(self.drained_at(), cancelled_at))
        signalled = {worker.id for worker in workers if worker.told is not None}

        def write() -> list[int]:
            returned = []
            for frozen in self._storage.get_all_trials(self._study_id, states=(_RUNNING,)):
                holder, lost = _holder(frozen), frozen.user_attrs.get("lost", 0)
                if holder is None or not is_gone(holder):  # none: another program's trial
                    continue
                known = Cause.PREEMPTED if holder in signalled else Cause.LOST
                cause, is_told = causes.get(holder.task, known), holder in told
                policy = self._sweep.policy(cause)
                verdict = judge_loss(holder, lost, told=is_told, cause=cause, policy=policy)
                self._give_back(frozen, verdict)
                returned.append(frozen.number)
            return returned

        returned = self._exclusively(write)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.id):
                self.check_in(written_off(worker))
        return returned

    def _give_back(self, frozen: _Trial, verdict: Verdict) -> None:
        lost = frozen.user_attrs.get("lost", 0)
        marks: dict[str, object] = {"lost": lost + (verdict.outcome is Outcome.LOST)}
        state = _WAITING
        if verdict.error is not None:
            ends = optuna.trial.TrialState
            state = ends.PRUNED if verdict.outcome is Outcome.PRUNED else ends.FAIL
            marks |= {**verdict.kept, "ended_by": 0}  # none of its attempts
        note_failure(self._storage, frozen._trial_id, verdict)
        self._keep(frozen._trial_id, marks)
        self._constrain(frozen._trial_id, verdict.constraints)
        self._storage.set_trial_state_values(frozen._trial_id, state)

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        running = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(_RUNNING,))
        held = {_holder(frozen): frozen.number for frozen in running}
        said = sorted_workers(v for key, v in attrs.items() if key.startswith(WORKER_KEY))
        return [replace(worker, trial=held.get(worker.id)) for worker in said]

    def sign_on(self, worker: WorkerRecord) -> WorkerRecord:
        """The worker's first word to the study, which says which life of its task this is."""

        def write() -> WorkerRecord:
            lives = [known.life for known in self.workers() if known.task == worker.task]
            signed = replace(worker, life=max(lives, default=0) + 1)
            self._write_down(signed)
            return signed

        return self._exclusively(write)

    def check_in(self, worker: WorkerRecord, *, patience_s: float = PATIENCE_S) -> float:
        """Writes what a worker says of itself; when workers were last asked to leave, or 0.0."""
        self._exclusively(lambda: self._write_down(worker), patience_s=patience_s)
        return self.drained_at()

    def _write_down(self, worker: WorkerRecord) -> None:
        key = f"{WORKER_KEY}{worker.task}:{worker.life}"
        said = asdict(replace(worker, trial=None))
        self._storage.set_study_system_attr(self._study_id, key, said)

    def drain(self, at: float) -> None:
        """Asks every worker that started before `at` to finish its trial and leave."""
        self._storage.set_study_system_attr(self._study_id, DRAIN_KEY, at)

    def drained_at(self) -> float:
        """When workers were last asked to leave; 0.0 if never."""
        return float(self._storage.get_study_system_attrs(self._study_id).get(DRAIN_KEY, 0.0))

    def gpu_hours(self, now: float) -> float:
        """GPU-hours of all workers of this study up to `now`, running ones included."""
        return hours.spent(self.workers(), now, self._sweep.lease.total_seconds())

    def summary(self) -> Summary:
        """The study at a glance, by Optuna's own answers; slower than `study.summary`."""
        records = self.records()
        try:
            best = translate.record(self._study.best_trial)
        except (ValueError, RuntimeError):  # none is complete, or there are several metrics
            best = None
        return Summary(
            counts={state: sum(r.state is state for r in records) for state in TrialState},
            best=best,
            workers=tuple(self.workers()),
            stop=self.past.stopped(),
            bad_nodes=self.past.bad_nodes(),
            infeasible=sum(not record.feasible for record in records),
        )

    def rest(self) -> None:
        """Optuna holds no connection between two questions here."""

    def _take(self, worker: WorkerRecord) -> tuple[int, int, int, int] | None:
        """A trial's id, number, attempt and root."""
        for frozen in self._ready():
            trial_id, before = frozen._trial_id, frozen.user_attrs
            attempt, root = before.get("attempt", 0) + 1, before.get("retry_of", frozen.number)
            marks = {
                "attempt": attempt,
                "task": worker.task,
                "life": worker.life,
                "node": worker.node,
                "gpus": worker.gpus,
                "seed": seed_of(self._sweep, root),
            }
            if self._start(trial_id):
                self._keep(trial_id, marks)
                return trial_id, frozen.number, attempt, root
        return None

    def _ready(self) -> Iterator[_Trial]:
        """The waiting trials that may begin."""
        waiting = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(_WAITING,))
        population = members(self._sweep)
        if not population:
            return iter(waiting)
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        ended = {trial.number for trial in trials if trial.state.is_finished()}
        return (trial for trial in waiting if is_ready(trial.number, population, ended))

    def _start(self, trial_id: int) -> bool:
        """Whether the trial is ours now; under the journal's lock it is, though not yet written."""
        try:
            mine = self._storage.set_trial_state_values(trial_id, _RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:  # another one was faster
            return False
        return mine or self._journal is not None

    def _constrain(self, trial_id: int, constraints: Mapping[str, float]) -> None:
        for name, violation in constraints.items():
            self._storage.set_trial_system_attr(trial_id, f"{CONSTRAINT_KEY}{name}", violation)

    def _keep(self, trial_id: int, attrs: Mapping[str, object]) -> None:
        for key, value in attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, value)


def _holder(frozen: _Trial) -> WorkerId | None:
    """Whose trial it is; None where another program runs it."""
    task = frozen.user_attrs.get("task")
    return None if task is None else WorkerId(task, frozen.user_attrs.get("life", 1))


def _ended_by(frozen: _Trial) -> object:
    """The attempt whose result a finished trial has: the last one, or one that came late."""
    return frozen.user_attrs.get("ended_by", frozen.user_attrs.get("attempt"))
