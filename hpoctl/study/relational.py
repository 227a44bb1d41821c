"""A study in a database: each of a worker's steps is one round trip on Optuna's own tables.

A study that is filled and worked off here reads in Optuna like any other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from hpoctl.plan import seed_of
from hpoctl.population import members, succeed
from hpoctl.record import Summary, TrialRecord, WorkerId, WorkerRecord
from hpoctl.samplers import Learning
from hpoctl.space import Params
from hpoctl.study import succession, translate
from hpoctl.study.advice import Advice
from hpoctl.study.connect import Rows
from hpoctl.study.database import REPORT_PATIENCE_S, Database, Statement
from hpoctl.study.ends import End, Ends
from hpoctl.study.enqueue import Queued, Slot, enqueue
from hpoctl.study.history import read_records
from hpoctl.study.location import Kind
from hpoctl.study.native import NativeStore
from hpoctl.study.past import Attempts, RelationalPast
from hpoctl.study.protocol import (
    NO_CAUSES,
    NOTHING,
    Claim,
    IsGone,
    Outcome,
    Past,
    Verdict,
    judge,
    judge_loss,
    or_succeeded,
    retriable,
    tasks_told_to_leave,
    with_what_is_known,
    written_off,
)
from hpoctl.study.roster import Roster
from hpoctl.study.rows import Parts
from hpoctl.study.statements import Statements
from hpoctl.study.storages import open_tables
from hpoctl.sweep import Sweep
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)
_FROM_START_S = 1.0  # so often a claim looks for trials that wait again


class RelationalStore(Roster):
    """One study, open for reading and writing."""

    def __init__(self, database: Database, study_id: int, sweep: Sweep) -> None:
        self._location = database.location
        super().__init__(database, Statements(self._location.kind, study_id, members(sweep)), sweep)
        self._ends = Ends(database.location.kind)
        self._attempts = Attempts(database.location.kind, study_id)
        self.past: Past = RelationalPast(database, self._attempts)
        self._advice = Advice(database, self._sql, sweep)
        self._after = 0
        self._from_start_at = 0.0
        # An empty slot may have fixed parameters in Optuna's notes.
        empty = isinstance(sweep.sampler, Learning)
        self._claim_parts = Parts(values=False, attrs=empty, steps=())

    # The queue

    def append(self, points: Iterable[Params]) -> None:
        """Queues all points or none, in their order, numbered on from the last trial."""
        slots = [Slot(point=point) for point in points]
        if slots:
            self._enqueue(lambda there: slots)

    def fill(self, whole: Sequence[Params]) -> list[int]:
        """Queues what is missing of a whole queue at its end; gives the numbers of those."""
        return self._enqueue(
            lambda there: [Slot(point=point) for point in whole[there.size - there.retries :]]
        )

    def retry(self, numbers: Collection[int]) -> list[int]:
        """Queues failed trials once more, as new ones; gives the numbers of those."""
        records = {record.number: record for record in self.records()}
        failed = [records[number] for number in retriable(records, numbers)]

        def not_repeated_yet(there: Queued) -> list[Slot]:
            return [
                Slot(point=record.params, repeats=record.number)
                for record in failed
                if there.last.get(record.root, record.root) == record.number
            ]

        return self._enqueue(not_repeated_yet)

    def _enqueue(self, choose: Callable[[Queued], Sequence[Slot]]) -> list[int]:
        return enqueue(self._database, self._sql, self._sweep.search_space, choose)

    def size(self) -> int:
        """How many trials the study has, in all states."""
        return int(self._database.run(self._sql.size())[0][0])

    def has_waiting(self) -> bool:
        """Whether any trial waits."""
        return bool(self._database.run(replace(self._sql, population=0).first_waiting(0)))

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.objectives]
        self._database.run(self._attempts.keep_attr("study:metric_names", names))

    def retries(self) -> int:
        """How many of them repeat another one."""
        return sum(int(count) for _, _, count in self._database.run(self._sql.repeated()))

    def claim(self, worker: WorkerRecord) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits.

        Within a second it looks behind its last one first: before that one, the index is full of
        entries of trials that wait no more.
        """
        now = time.monotonic()
        after = self._after if now < self._from_start_at + _FROM_START_S else 0
        rows = self._take(worker, after)
        if not rows and after:
            rows, after = self._take(worker, 0), 0  # a trial that waits again
        if not after:
            self._from_start_at = now
        if not rows:
            return None
        head = next(row for row in rows if row[0] == "trial")
        trial_id, attempt, root = head[1], int(head[3]), int(head[5])
        if attempt > 1:  # it may have reports and a pruner's notes
            rows = self._database.run(self._sql.trial(trial_id))
        trial = self._advice.take(trial_id, rows)
        self._after = trial_id
        claim = Claim(
            number=trial.number, params=trial.params, trial_id=trial_id, attempt=attempt, root=root
        )
        params = self._sweep.search_space.whole(trial.params)
        if params is not None:
            return replace(claim, params=params, parent=translate.parent(trial))
        if not 0 < members(self._sweep) <= trial.number:
            return replace(claim, params=self._advice.sample(claim))
        new = succeed(self._sweep, trial.number, self.records())
        self._database.run(*succession.keep(self._sql, self._sweep.search_space, claim, new))
        return replace(claim, params=new.params, parent=new.parent)

    def _take(self, worker: WorkerRecord, after: int) -> Rows:
        at = time.time()
        if self._location.kind is Kind.SQLITE:
            return self._database.locked(lambda: self._take_locally(worker, at, after))
        statements = self._sql.claim(worker, at, after=after, parts=self._claim_parts)
        # Where the answer was lost, the trial may be ours already.
        taken = self._sql.taken_by(worker.id, known=self._advice.claimed, parts=self._claim_parts)
        return self._database.run(*statements, again=[taken])

    def _take_locally(self, worker: WorkerRecord, at: float, after: int) -> Rows:
        """SQLite has no network and no SKIP LOCKED: the whole claim is under its one lock."""
        found = self._database.ask(self._sql.first_waiting(after))
        if not found:
            return ()
        for statement in self._sql.take(found[0][0], worker, at):
            self._database.ask(statement)
        return self._database.ask(
            self._sql.taken("t.trial_id = ?", [found[0][0]], parts=self._claim_parts)
        )

    # A running trial

    def report(
        self, claim: Claim, value: float, step: int, *, patience_s: float = REPORT_PATIENCE_S
    ) -> bool:
        """Keeps the first metric's value at a step; True if the trial shall end; see `Store`."""
        if len(self._sweep.objectives) > 1:  # with steps, Optuna's samplers ask for one direction
            return not self._database.run(self._sql.is_held(claim), patience_s=patience_s)
        return self._advice.report(claim, value, step, patience_s=patience_s)

    def complete(
        self,
        claim: Claim,
        values: Sequence[float],
        attrs: Mapping[str, object],
        *,
        at: float | None = None,
        constraints: Mapping[str, float] = NOTHING,
    ) -> None:
        """Ends a trial with its values; see `Store`."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN", at=at, cause=Cause.NAN)
            return
        end = self._end(claim, Outcome.COMPLETE, at)
        given = [float(value) for value in values]
        if not self._finish(replace(end, values=given, attrs=attrs, constraints=constraints)):
            self._database.run(self._ends.keep_late(claim, values))

    def prune(self, claim: Claim, *, at: float | None = None) -> None:
        """Ends a trial early; its last report becomes its value."""
        steps = self._advice.reports(claim)
        last = steps[max(steps)] if steps and len(self._sweep.objectives) == 1 else math.nan
        end = self._end(claim, Outcome.PRUNED, at)
        self._finish(end if math.isnan(last) else replace(end, values=[last]))

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
        losses = 0
        if policy is Policy.RETRY:
            losses = int(self._database.run(self._attempts.losses(claim))[0][0])
        verdict = judge(cause, error, policy, losses)
        verdict = with_what_is_known(verdict, attrs, constraints)
        if verdict.outcome is Outcome.FAILED:
            end = replace(self._end(claim, Outcome.FAILED, at), attrs=verdict.kept)
            self._finish(end, self._attempts.keep_failure(claim, verdict, end.at))
        else:
            self._set_free(claim, verdict, at)

    def give_back(self, claim: Claim, *, at: float | None = None) -> None:
        """Lets a trial wait again that saved itself."""
        self._set_free(claim, Verdict(outcome=Outcome.RETURNED, error=None), at)

    def _set_free(self, claim: Claim, verdict: Verdict, at: float | None) -> None:
        done = self._give_back(claim, verdict, at or time.time())
        if not done:
            log.warning("trial %d was given to another worker meanwhile", claim.number)
        ended = done and verdict.outcome is Outcome.PRUNED
        self._advice.let_go(claim, Outcome.PRUNED if ended else None, (), verdict.constraints)

    def _give_back(self, claim: Claim, verdict: Verdict, at: float) -> bool:
        *steps, done = self._ends.give_back(claim.trial_id, claim.attempt, verdict, at=at)
        keep = self._attempts.keep_failure(claim, verdict, at)
        return bool(self._database.run(*steps, keep, done))

    def _end(self, claim: Claim, outcome: Outcome, at: float | None) -> End:
        seed = seed_of(self._sweep, claim.root)
        return End(claim=claim, outcome=outcome, at=at or time.time(), seed=seed)

    def _finish(self, end: End, *also: Statement) -> bool:
        """False if the trial was no longer this claim's; it is left as it is then."""
        kept: Rows = ()
        if self._location.kind is Kind.POSTGRESQL and not also:
            kept = self._database.run(self._ends.finish_at_once(end))
        if not kept:
            *steps, done = self._ends.finish(end)
            kept = self._database.run(*steps, *also, done)
        self._advice.let_go(end.claim, end.outcome if kept else None, end.values, end.constraints)
        if not kept:
            log.warning("trial %d was given to another worker meanwhile", end.claim.number)
        return bool(kept)

    def rest(self) -> None:
        """Holds no connection until the next question."""
        self._database.rest()

    def return_lost(
        self,
        is_gone: IsGone,
        *,
        cancelled_at: float = 0.0,
        causes: Mapping[str, Cause] = NO_CAUSES,
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; see `Store`."""
        workers, returned = self.workers(), []
        signalled = {worker.id for worker in workers if worker.told is not None}
        is_gone = or_succeeded(is_gone, workers)
        told = tasks_told_to_leave(workers, max(self.drained_at(), cancelled_at))
        for trial_id, number, attempt, task, life, losses in self._database.run(
            self._sql.running()
        ):
            holder = WorkerId(task, life)
            if not is_gone(holder):
                continue
            cause = causes.get(task, Cause.PREEMPTED if holder in signalled else Cause.LOST)
            policy = self._sweep.policy(cause)
            verdict = judge_loss(holder, losses, told=holder in told, cause=cause, policy=policy)
            lost = Claim(number=number, params={}, trial_id=trial_id, attempt=attempt, root=number)
            if self._give_back(lost, verdict, time.time()):
                returned.append(number)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.id):
                self.check_in(written_off(worker))
        return returned

    # Reading

    def summary(self) -> Summary:
        """The study at a glance, by Optuna's own answers; slower than `study.summary`."""
        said = NativeStore(open_tables(self._location, new=False), self._sweep).summary()
        return replace(said, workers=tuple(self.workers()))

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return read_records(self._database, self._sql)
