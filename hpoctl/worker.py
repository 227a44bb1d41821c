"""The worker, on a compute node: claims a trial, forks a child for it, relays its reports.

It prepares once and forks for each trial, so that an out-of-memory or a segfault ends one trial
and not the worker. It leaves when no trial waits, or when told to: the running trial is finished.
Reads HPOCTL_* variables only; what they mean in Slurm stands in slurm/worker.sh.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hpoctl import (
    arrays,
    child,
    config,
    heritage,
    kin,
    lost,
    metrics,
    objectives,
    population,
    spool,
)
from hpoctl.allocation import Allocation, clock, expected_s, is_fresh
from hpoctl.child import Errand
from hpoctl.conclusions import Conclusions
from hpoctl.ending import Ending
from hpoctl.errors import Unreachable
from hpoctl.failures import CUT_SHORT
from hpoctl.lost import Observer
from hpoctl.plan import seed_of
from hpoctl.pruners import NoPruner
from hpoctl.record import Outcome, TrialState, WorkerRecord
from hpoctl.relay import Relay, in_words, waits_again
from hpoctl.rundir import Run, RunDir
from hpoctl.samplers import Pbt, require_packages
from hpoctl.space import nest
from hpoctl.spool import Result
from hpoctl.study import store as study_store
from hpoctl.study.location import locate
from hpoctl.study.store import Claim, Store
from hpoctl.sweep import Sweep
from hpoctl.trial import Objective
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)
_LAST_TRIALS = 100  # by whose durations the next one's is judged: a sampler moves to other points
_PAUSE_S = 2.0  # between two looks for a trial that may begin
_AMPLE = 10  # trials: with time for so many, nobody has to count
_ENDS_ALL = ("budget", "told to by 'hpoctl", "told to by SIGTERM")  # no further array is wanted
_fork = multiprocessing.get_context("fork")


def work(run_dir: RunDir, environ: Mapping[str, str]) -> str:
    """Works the queue of a run off and gives the reason for leaving."""
    run = run_dir.run()
    os.chdir(run.workdir)
    sys.path.insert(0, str(run.workdir))
    sweep = config.load(run_dir.sweep_file, run.overrides)
    location = locate(sweep.storage, workdir=run.workdir, journal=run_dir.journal, environ=environ)
    store = study_store.open_(location, sweep, patient=True)
    worker = Worker(
        run_dir=run_dir, run=run, sweep=sweep, store=store, allocation=Allocation.read(environ)
    )
    worker.clear_up()

    def ended() -> set[str]:
        return {worker.task for worker in store.workers() if worker.ended_at is not None}

    if not store.has_waiting():
        return worker.leave("no trial waits")  # before the minutes that preparing may take
    feeder = arrays.Feeder(
        run=run,
        run_dir=run_dir,
        sweep=sweep,
        waits=store.has_waiting,
        avoided=store.past.bad_nodes,
    )
    feeder.feed_at_start()
    try:
        reason = worker.run_trials()
        if not reason.startswith(_ENDS_ALL):
            feeder.feed_at_end(ended, worker.allocation.task)
        return reason
    except Unreachable:
        log.error("the study cannot be reached; what is in %s is delivered later", run_dir.spool)
        raise


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker: what it was given, and what it says of itself in the study."""

    run_dir: RunDir
    run: Run
    sweep: Sweep
    store: Store
    allocation: Allocation
    record: WorkerRecord = field(init=False)
    watch: Observer = field(init=False)
    submitted_at: float = field(init=False)
    ending: Ending = field(init=False)
    resumes: bool = field(init=False)
    conclusions: Conclusions = field(init=False)
    members: int = field(init=False)  # of the population; 0 where there is none
    hands_on: bool = field(init=False)
    last_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        now = time.time()
        self.record = self.store.sign_on(
            WorkerRecord(
                task=self.allocation.task,
                node=self.allocation.node,
                pid=os.getpid(),
                gpus=self.allocation.gpus,
                started_at=now,
                seen_at=now,
                restarts=self.allocation.restarts,
                allocated_at=self.allocation.at,
            )
        )
        lease_s = self.sweep.lease.total_seconds()
        self.watch = lost.observe(self.run.backend, self.run_dir, lease_s)
        # A drain reaches tasks too that were pending then: what counts is when they were submitted.
        times = {submission.id: submission.at for submission in self.run_dir.submissions()}
        array = self.allocation.task.rpartition("_")[0]
        self.submitted_at = times.get(array, self.record.started_at)
        resources = self.sweep.resources
        self.ending = Ending(
            clock=clock(self.allocation, self.run.backend, now),
            warning_s=resources.warning_s,
            grace_s=resources.grace.total_seconds(),
        )
        self.ending.listen()
        self.resumes = self.sweep.checkpoints
        self.members = population.members(self.sweep)
        sampler = self.sweep.sampler
        self.hands_on = isinstance(sampler, Pbt) and sampler.hands_on
        self.conclusions = Conclusions(
            past=self.store.past,
            run_dir=self.run_dir,
            backend=self.run.backend,
            sweep=self.sweep,
            worker=self.record,
        )

    def clear_up(self) -> None:
        """Delivers results that nobody delivered, and gives back what earlier lives held."""
        spool.deliver(self.run_dir, self.store)
        if self.record.life == 1:
            return
        # Slurm, or worker.sh, started this task again.
        earlier = [w for w in lost.still_there(self.store.workers()) if w.task == self.record.task]
        queued_again = [w for w in earlier if w.restarts < self.record.restarts]
        causes = lost.causes(self.run.backend, self.run_dir, queued_again)
        self.store.return_lost(lambda worker: False, causes=causes)

    def run_trials(self) -> str:
        """Prepares, then runs trials until there is a reason to leave; gives the reason."""
        if (reason := self._reason_to_leave(startup_s=self._startup_s())) is not None:
            return self.leave(reason)
        try:
            require_packages(self.sweep.sampler)
            objective = objectives.ready(self.sweep)
        except BaseException as wrong:
            self.leave(f"could not prepare: {wrong}", failed=True)
            raise
        self.resumes = self.resumes or objectives.saves_itself(objective)
        self.record = replace(self.record, ready_at=time.time())
        while (reason := self._reason_to_leave()) is None:
            claim = self.store.claim(self.record)
            if claim is not None:
                self._run_trial(objective, claim)
            elif (reason := self._why_none()) is not None:
                break
        return self.leave(reason)

    def _why_none(self) -> str | None:
        """Why there is no trial for this worker; None, after a pause, where there soon may be.

        In a population those that wait follow those that other workers are in.
        """
        if not self.members or not self.store.has_waiting():
            return "no trial waits"
        self.beat()  # one of them may be gone
        if len(lost.still_there(self.store.workers())) > self.members:
            return "every member of the population has a worker"
        self.store.rest()
        time.sleep(min(_PAUSE_S, self.watch.beat_s))
        return None

    def leave(self, reason: str, *, failed: bool = False) -> str:
        """Writes down that this worker ended, and why."""
        now = time.time()
        self._note_what_was_told()
        ended = replace(self.record, ended_at=now, seen_at=now, reason=reason, failed=failed)
        self.record = ended
        self.store.check_in(ended)
        log.info("left: %s, after %d trials", reason, self.record.trials)
        return reason

    def beat(self) -> None:
        """A sign of life, and a look at the others': whoever is gone has lost its trial.

        An outage is no reason to disturb the trial that runs.
        """
        try:
            self._note_what_was_told()
            self.record = replace(self.record, seen_at=time.time())
            self.store.check_in(self.record, patience_s=0.0)
            others = [worker for worker in self.store.workers() if worker.id != self.record.id]
            self.store.rest()  # the batch system may take its time
            gone = self.watch.look(others, time.monotonic())
            if gone:
                those = [worker for worker in others if worker.id in gone]
                causes = lost.causes(self.run.backend, self.run_dir, those)
                spool.deliver(self.run_dir, self.store)
                returned = self.store.return_lost(
                    lambda worker: worker in gone,
                    cancelled_at=self.run_dir.cancelled_at(),
                    causes=causes,
                )
                log.info("trials %s of workers that are gone wait again", returned)
        except Unreachable as wrong:
            log.warning("no sign of life given: %s", wrong)
        finally:
            self.store.rest()

    def _note_what_was_told(self) -> None:
        if (told := self.ending.told) is not None:
            self.record = replace(self.record, told=told.name, told_at=self.ending.told_at)

    def _reason_to_leave(self, *, startup_s: float = 0.0) -> str | None:
        """Why this worker starts no further trial, or None to go on."""
        now, allocation = time.time(), self.allocation
        if self.ending.told is not None:
            return f"told to by {self.ending.told.name}"
        if allocation.trials is not None and self.record.trials >= allocation.trials:
            return "its trials_per_task are done"
        if (reason := self.conclusions.reason()) is not None:
            return reason
        self.record = replace(self.record, seen_at=now)
        drained_at = self.store.check_in(self.record)
        if drained_at > self.submitted_at:
            return self.conclusions.why_drained(drained_at)
        budget = self.run_dir.budget(self.sweep.budget)  # which may have been raised meanwhile
        if budget.time is not None and now > self.run.created_at + budget.time.total_seconds():
            return "budget.time is spent"
        if budget.gpu_hours is not None and self.store.gpu_hours(now) >= budget.gpu_hours:
            return "budget.gpu_hours is spent"
        return self._too_late(now, startup_s)

    def _too_late(self, now: float, startup_s: float) -> str | None:
        """Why what is left of the allocation is too short for a trial, or None if it is not.

        A trial that saves itself needs some time before it is asked to. Others need their whole
        time, but for the first one of a fresh allocation: none will have more.
        """
        left_s = self.ending.left_s(now) - startup_s
        needed_s, why = 2 * self.ending.warning_s, "and a trial is asked to save itself before"
        if not self.resumes:
            trial_s = self.last_s
            if left_s < _AMPLE * max(trial_s, self.ending.warning_s):
                trial_s = self._trial_s()
            needed_s, why = trial_s + self.ending.reserve_s, f"a trial takes {trial_s:.0f} s"
        if left_s >= needed_s or (not self.record.trials and is_fresh(self._began_at, now, left_s)):
            return None
        known = self.ending.clock.ends_at
        self.ending.clock.refresh()
        if self.ending.clock.ends_at != known:  # it was given more time, or less
            return self._too_late(now, startup_s)
        return f"{max(0.0, left_s):.0f} s of walltime left, {why}"

    @property
    def _began_at(self) -> float:
        return self.record.allocated_at or self.record.started_at

    def _trial_s(self) -> float:
        """How long a trial takes, by all workers' trials; before the first, by the estimate."""
        known = expected_s(self.store.past.durations(_LAST_TRIALS))
        estimate = self.sweep.estimate
        return known or (estimate.trial.total_seconds() if estimate else 0.0)

    def _startup_s(self) -> float:
        """How long preparing will take: the longest that it took other workers."""
        if self.ending.clock.ends_at is None:
            return 0.0
        starts = [w.ready_at - w.started_at for w in self.store.workers() if w.ready_at]
        return max(starts, default=0.0)

    def _run_trial(self, objective: Objective, claim: Claim) -> None:
        begun = time.monotonic()
        self.record = replace(self.record, trial_at=time.time())
        errand = self._errand(claim)
        ours, theirs = _fork.Pipe()
        others = kin.children()
        process = _fork.Process(target=child.run, args=(objective, errand, theirs, ours))
        process.start()
        theirs.close()
        relay = Relay(
            self.store,
            claim,
            ours,
            process,
            beat=self.beat,
            beat_s=self.watch.beat_s,
            ending=self.ending,
            asked=errand.asked,
            others=others,
        )
        result = self._judged(relay.relay())
        took = self.last_s = time.monotonic() - begun
        self.record = replace(
            self.record,
            trials=self.record.trials + (not waits_again(result)),
            training_s=self.record.training_s + took,
            trial_at=None,
        )
        spool.tell(self.run_dir, self.store, result)
        log.info("trial %d %s in %.1f s", claim.number, in_words(result), took)
        if self.hands_on:
            self._tidy()

    def _tidy(self) -> None:
        """Removes what nobody of the population goes on from any more."""
        records, folder = self.store.records(), self.run_dir.trial
        complete = [folder(one.root) for one in records if one.state is TrialState.COMPLETE]
        left = map(folder, population.superseded(records, self.members))
        heritage.tidy(complete, left)

    def _judged(self, result: Result) -> Result:
        """A result with what the sweep wants to become of its trial.

        One that saves itself goes on where it last did, whenever its time was cut short.
        """
        if result.outcome is Outcome.COMPLETE:
            return self._weighed(result)
        if result.outcome is not Outcome.FAILED:
            return result
        if result.cause is Cause.PREEMPTED and self.ending.told is signal.SIGTERM:
            if self.run_dir.cancelled_at() > self.record.started_at:  # whatever the sweep says
                return replace(result, cause=Cause.CANCELLED, policy=Policy.REQUEUE)
            result = replace(result, cause=self._why_told())
        if self.resumes and result.cause in CUT_SHORT:
            return replace(result, policy=Policy.REQUEUE)
        limits = metrics.out_of_memory(self.sweep.constraints, result.cause, result.attrs)
        policy = self.sweep.policy(result.cause)
        return self.conclusions.judge(replace(result, policy=policy, constraints=limits))

    def _why_told(self) -> Cause:
        self._note_what_was_told()
        self.store.rest()  # the batch system may take its time
        return lost.why_told(self.run.backend, self.run_dir, self.record)

    def _weighed(self, result: Result) -> Result:
        """A complete trial's values as the study compares them, and which constraints it keeps."""
        names = [metric.name for metric in self.sweep.metrics]
        values = dict(zip(names, result.values, strict=True))
        limits = metrics.violations(self.sweep.constraints, {**result.attrs, **values})
        result = replace(result, constraints=limits)
        if not (weights := metrics.signed_weights(self.sweep.metrics)):
            return result
        attrs = {**result.attrs, **values}
        return replace(result, values=[metrics.weigh(weights, values)], attrs=attrs)

    def _errand(self, claim: Claim) -> Errand:
        folder = self.run_dir.trial(claim.root)
        folder.mkdir(parents=True, exist_ok=True)
        secret = self.sweep.storage.url_env
        return Errand(
            number=claim.number,
            params=nest(claim.params),
            args=self.sweep.objective_args,
            seed=seed_of(self.sweep, claim.root),
            dir=folder,
            cpus=self.allocation.cpus,
            metrics=[metric.name for metric in self.sweep.metrics],
            secrets=[secret] if secret else [],
            attempt=claim.attempt,
            constraints=[constraint.name for constraint in self.sweep.constraints],
            weights=metrics.signed_weights(self.sweep.metrics),
            prunes=not isinstance(self.sweep.pruner, NoPruner),
            parent=self.run_dir.trial(claim.parent.root)
            if claim.parent and self.hands_on
            else None,
            hands_on=self.hands_on,
        )
