"""The worker, on a compute node: claims a trial, forks a child for it, relays its reports.

It prepares once and forks for each trial, so that an out-of-memory or a segfault ends one trial
and not the worker. It leaves when no trial waits, or when told to: the running trial is finished.
Reads HPOCTL_* variables only; what they mean in Slurm stands in slurm/worker.sh.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any

from hpoctl import child, config, objectives
from hpoctl.child import Errand
from hpoctl.record import TrialState, WorkerRecord
from hpoctl.rundir import Run, RunDir
from hpoctl.space import nest
from hpoctl.study import store as study_store
from hpoctl.study.location import locate
from hpoctl.study.store import Claim, Store
from hpoctl.study.summary import summarize
from hpoctl.sweep import Sweep
from hpoctl.trial import Objective, derive_seed

log = logging.getLogger(__name__)
_BRIEF_S = 1.0  # a trial that is silent for longer holds no connection to the database
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What the array task was given, as slurm/worker.sh says it."""

    task: str
    node: str
    cpus: int
    gpus: int
    trials: int | None
    walltime_s: float | None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Allocation:
        """From the HPOCTL_* variables of the script."""
        return cls(
            task=environ.get("HPOCTL_TASK") or f"local_{os.getpid()}",
            node=environ.get("HPOCTL_NODE") or os.uname().nodename,
            cpus=int(environ.get("HPOCTL_CPUS") or 1),
            gpus=int(environ.get("HPOCTL_GPUS") or 0),
            trials=int(environ.get("HPOCTL_TRIALS_PER_TASK") or 0) or None,
            walltime_s=float(environ.get("HPOCTL_WALLTIME_S") or 0) or None,
        )


def work(run_dir: RunDir, environ: Mapping[str, str]) -> str:
    """Works the queue of a run off and gives the reason for leaving."""
    run = run_dir.run()
    os.chdir(run.workdir)
    sys.path.insert(0, str(run.workdir))
    sweep = config.load(run_dir.sweep_file, run.overrides)
    location = locate(sweep.storage, workdir=run.workdir, journal=run_dir.journal, environ=environ)
    store, allocation = study_store.open_(location, sweep), Allocation.read(environ)
    if any(worker.task == allocation.task for worker in store.workers()):
        # Slurm requeued this task under its old name, so its life before is over.
        store.return_lost(lambda task: task == allocation.task)
    worker = Worker(run_dir=run_dir, run=run, sweep=sweep, store=store, allocation=allocation)
    if not summarize(location, sweep.study).counts[TrialState.WAITING]:
        return worker.leave("no trial waits")  # before the minutes that preparing may take
    return worker.run_trials()


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker: what it was given, and what it says of itself in the study."""

    run_dir: RunDir
    run: Run
    sweep: Sweep
    store: Store
    allocation: Allocation
    record: WorkerRecord = field(init=False)
    submitted_at: float = field(init=False)
    told_to_leave: str | None = field(default=None, init=False)
    longest_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.record = WorkerRecord(
            task=self.allocation.task,
            node=self.allocation.node,
            pid=os.getpid(),
            gpus=self.allocation.gpus,
            started_at=time.time(),
        )
        # A drain reaches tasks too that were pending then: what counts is when they were submitted.
        times = {submission.id: submission.at for submission in self.run_dir.submissions()}
        array = self.allocation.task.rpartition("_")[0]
        self.submitted_at = times.get(array, self.record.started_at)
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        self._note()

    def run_trials(self) -> str:
        """Prepares, then runs trials until there is a reason to leave; gives the reason."""
        if (reason := self._reason_to_leave()) is not None:
            return self.leave(reason)
        try:
            objective = objectives.ready(self.sweep)
        except BaseException as wrong:
            self.leave(f"could not prepare: {wrong}", failed=True)
            raise
        self._note(ready_at=time.time())
        while (reason := self._reason_to_leave()) is None:
            claim = self.store.claim(
                {"task": self.record.task, "node": self.record.node, "gpus": self.record.gpus}
            )
            if claim is None:
                reason = "no trial waits"
                break
            self._run_trial(objective, claim)
        return self.leave(reason)

    def leave(self, reason: str, *, failed: bool = False) -> str:
        """Writes down that this worker ended, and why."""
        self._note(ended_at=time.time(), reason=reason, trial=None, failed=failed)
        log.info("left: %s, after %d trials", reason, self.record.trials)
        return reason

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.told_to_leave = f"told to by {signal.Signals(number).name}"

    def _note(self, **changes: object) -> None:
        # mypy cannot know which fields the changes name.
        self.record = replace(self.record, seen_at=time.time(), **changes)  # type: ignore[arg-type]
        self.store.keep_worker(self.record)

    def _reason_to_leave(self) -> str | None:
        """Why this worker starts no further trial, or None to go on."""
        now, allocation, budget = time.time(), self.allocation, self.sweep.budget
        if self.told_to_leave is not None:
            return self.told_to_leave
        if allocation.trials is not None and self.record.trials >= allocation.trials:
            return "its trials_per_task are done"
        if self.store.drained_at() > self.submitted_at:
            return "told to by 'hpoctl workers drain'"
        if budget.time is not None and now > self.run.created_at + budget.time.total_seconds():
            return "budget.time is spent"
        if budget.gpu_hours is not None and self.store.gpu_hours(now) >= budget.gpu_hours:
            return "budget.gpu_hours is spent"
        if allocation.walltime_s is not None:
            left = self.record.started_at + allocation.walltime_s - now
            if left < self.longest_s:
                return (
                    f"{left:.0f} s of walltime left, the longest trial took {self.longest_s:.0f} s"
                )
        return None

    def _run_trial(self, objective: Objective, claim: Claim) -> None:
        self._note(trial=claim.number)
        begun = time.monotonic()
        errand = self._errand(claim)
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=child.run, args=(objective, errand, theirs, ours))
        process.start()
        theirs.close()
        end = _Relay(self.store, claim, ours, process).relay()
        took = time.monotonic() - begun
        self.longest_s = max(self.longest_s, took)
        self._note(
            trial=None,
            trials=self.record.trials + 1,
            training_s=self.record.training_s + took,
        )
        log.info("trial %d %s in %.1f s", claim.number, end, took)

    def _errand(self, claim: Claim) -> Errand:
        folder = self.run_dir.trial(claim.number)
        folder.mkdir(parents=True, exist_ok=True)
        secret = self.sweep.storage.url_env
        return Errand(
            number=claim.number,
            params=nest(claim.params),
            args=self.sweep.objective_args,
            seed=derive_seed(self.sweep.seed, claim.number),
            dir=folder,
            cpus=self.allocation.cpus,
            metrics=[metric.name for metric in self.sweep.metrics],
            secrets=[secret] if secret else [],
        )


@dataclass(slots=True)
class _Relay:
    """Carries what a child says to the study until the child has ended."""

    store: Store
    claim: Claim
    pipe: Connection
    process: ForkProcess

    def relay(self) -> str:
        """How the trial ended, in a few words; it has ended in the study too."""
        try:
            last = self._listen()
        except BaseException:
            self.process.kill()
            raise
        finally:
            self.process.join()
            self._end_what_it_started()
        return self._finish(last)

    def _listen(self) -> Mapping[str, Any]:
        """The child's last message, after every report before it was written down."""
        last: Mapping[str, Any] = {}
        while True:
            if not wait([self.pipe, self.process.sentinel], timeout=_BRIEF_S):
                self.store.rest()
                wait([self.pipe, self.process.sentinel])
            if not self.pipe.poll():
                return last
            try:
                last = json.loads(self.pipe.recv_bytes())
            except (EOFError, OSError):
                return last
            if "report" in last:
                prune = self.store.report(self.claim, last["report"], last["step"])
                self._answer({"prune": prune})

    def _answer(self, message: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # it died meanwhile; the sentinel says so next
            self.pipe.send_bytes(json.dumps(message).encode())

    def _end_what_it_started(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(self.process.pid or 0, signal.SIGKILL)

    def _finish(self, last: Mapping[str, Any]) -> str:
        if "values" in last:
            self.store.complete(self.claim, last["values"], last["extras"])
            return "complete " + " ".join(f"{value:.6g}" for value in last["values"])
        if "pruned" in last:
            self.store.prune(self.claim)
            return "pruned"
        error = last.get("error") or _death(self.process.exitcode)
        self.store.fail(self.claim, error)
        return f"failed: {error.strip().splitlines()[-1]}"


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the trial's process was ended by {name}{hint}"
    return f"the trial's process left with exit code {exitcode} and no result"
