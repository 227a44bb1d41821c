"""A study through Optuna's own storages: the journal, and tables of a schema not known here.

Every step is Optuna's API, so it is right wherever Optuna is, and slow on a database.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from hpoctl import hours
from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerId, WorkerRecord
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.connect import engine_options, engine_url
from hpoctl.study.journal import JournalFile
from hpoctl.study.location import Location
from hpoctl.study.native_past import NativePast, has_failed, note_failure, without_failures
from hpoctl.study.protocol import (
    DRAIN_KEY,
    LATE_KEY,
    NO_CAUSES,
    WORKER_KEY,
    Claim,
    IsGone,
    Outcome,
    Past,
    Verdict,
    judge,
    judge_loss,
    or_succeeded,
    retriable,
    sorted_workers,
    tasks_told_to_leave,
    written_off,
)
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)


class NativeStore:
    """One study, open for reading and writing."""

    def __init__(self, storage: BaseStorage, sweep: Sweep) -> None:
        self._storage = storage
        self._handles: dict[int, optuna.Trial] = {}
        self._sweep = sweep
        self._study_id = storage.get_study_id_from_name(sweep.study)
        self.past: Past = NativePast(storage, self._study_id)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=storage, pruner=translate.pruner(sweep)
        )

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""
        for point in points:
            template = translate.template(self._sweep.search_space, point)
            self._storage.create_new_trial(self._study_id, template)

    def fill(self, whole: Sequence[Params]) -> list[int]:
        """Queues what is missing of a whole queue at its end; gives the numbers of those."""
        first = self.size()
        missing = whole[first - self.retries() :]
        self.append(missing)
        return list(range(first, first + len(missing)))

    def retry(self, numbers: Collection[int]) -> list[int]:
        """Queues failed trials once more, as new ones; gives the numbers of those."""
        records = {record.number: record for record in self.records()}
        queued = []
        last = {record.root: record.number for record in records.values()}
        for number in retriable(records, numbers):
            if last[records[number].root] != number:  # repeated already
                continue
            template = translate.template(self._sweep.search_space, records[number].params)
            attrs = records[number].attrs
            template.user_attrs = {
                "retry_of": attrs.get("retry_of", number),
                "attempt": attrs.get("attempt", 1),
            }
            trial_id = self._storage.create_new_trial(self._study_id, template)
            queued.append(self._storage.get_trial(trial_id).number)
        return queued

    def size(self) -> int:
        """How many trials the study has, in all states."""
        return self._storage.get_n_trials(self._study_id)

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.metrics]
        self._storage.set_study_system_attr(self._study_id, "study:metric_names", names)

    def retries(self) -> int:
        """How many of them repeat another one."""
        return sum("retry_of" in record.attrs for record in self.records())

    def claim(self, worker: WorkerRecord) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""
        taken = self._take(worker)
        if taken is None:
            return None
        trial_id, number, attempt, root = taken
        self._study.sampler = translate.sampler(self._sweep, number)
        handle = optuna.Trial(self._study, trial_id)
        params = {
            name: translate.suggest(handle, name, distribution)
            for name, distribution in self._sweep.search_space.parameters.items()
        }
        self._handles[trial_id] = handle
        return Claim(number=number, params=params, trial_id=trial_id, attempt=attempt, root=root)

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the pruner wants the trial to end."""
        if not self._holds(claim):
            return True
        self._storage.set_trial_intermediate_value(claim.trial_id, step, value)
        if len(self._sweep.metrics) > 1:  # Optuna prunes by one metric only
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
    ) -> None:
        """Ends a trial with its values; Optuna takes no other moment than now. See `Store`."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN", cause=Cause.NAN)
            return
        if self._retake(claim):
            self._keep(claim, attrs)
            self._tell(claim, values=list(values))
        elif not self._ended_by(claim):
            key = f"{LATE_KEY}{claim.number}:{claim.attempt}"  # a finished trial takes nothing more
            self._storage.set_study_system_attr(self._study_id, key, list(values))

    def prune(self, claim: Claim, *, at: float | None = None) -> None:
        """Ends a trial early; its last report becomes its value."""
        if self._retake(claim):
            self._tell(claim, state=optuna.trial.TrialState.PRUNED)

    def fail(
        self,
        claim: Claim,
        error: str,
        *,
        at: float | None = None,
        cause: Cause = Cause.ERROR,
        policy: Policy = Policy.FAIL,
    ) -> None:
        """Ends an attempt that came to nothing; see `Store`."""
        frozen = self._storage.get_trial(claim.trial_id)
        if has_failed(frozen, claim.attempt):
            return
        verdict = judge(cause, error, policy, frozen.user_attrs.get("lost", 0))
        if verdict.outcome is Outcome.FAILED and self._retake(claim):
            note_failure(self._storage, claim.trial_id, verdict)
            self._keep(claim, {"error": verdict.said})
            self._tell(claim, state=optuna.trial.TrialState.FAIL)
        elif verdict.outcome is not Outcome.FAILED and self._holds(claim):
            self._give_back(claim.trial_id, verdict)

    def give_back(self, claim: Claim, *, at: float | None = None) -> None:
        """Lets a trial wait again that saved itself."""
        if self._holds(claim):
            self._give_back(claim.trial_id, Verdict(outcome=Outcome.RETURNED, error=None))

    def _holds(self, claim: Claim) -> bool:
        frozen = self._storage.get_trial(claim.trial_id)
        ours = frozen.user_attrs.get("attempt") == claim.attempt
        return ours and frozen.state is optuna.trial.TrialState.RUNNING

    def _retake(self, claim: Claim) -> bool:
        """Whether the trial is this claim's, or waits again, so that it can be.

        Optuna's API has no guarded write: a claim within the milliseconds after this question
        would be overwritten.
        """
        frozen = self._storage.get_trial(claim.trial_id)
        if frozen.state is optuna.trial.TrialState.WAITING:
            running = optuna.trial.TrialState.RUNNING
            return self._storage.set_trial_state_values(claim.trial_id, running)
        if not self._holds(claim) and not self._ended_by(claim):
            log.warning("trial %d was given to another worker meanwhile", claim.number)
        return self._holds(claim)

    def _ended_by(self, claim: Claim) -> bool:
        """Whether this claim's result is there already."""
        frozen = self._storage.get_trial(claim.trial_id)
        return frozen.state.is_finished() and frozen.user_attrs.get("attempt") == claim.attempt

    def _tell(
        self,
        claim: Claim,
        values: Sequence[float] | None = None,
        state: optuna.trial.TrialState | None = None,
    ) -> None:
        """Ends the trial; a journal that was written twice after a lost lock says so already."""
        try:
            self._study.tell(self._handle(claim), values, state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            if not self._storage.get_trial(claim.trial_id).state.is_finished():
                raise

    def _handle(self, claim: Claim) -> optuna.Trial:
        """The trial as Optuna wants it told; made anew where another worker ran it."""
        handle = self._handles.pop(claim.trial_id, None)
        if handle is None:
            self._study.sampler = optuna.samplers.RandomSampler()
            handle = optuna.Trial(self._study, claim.trial_id)
        return handle

    def return_lost(
        self,
        is_gone: IsGone,
        *,
        cancelled_at: float = 0.0,
        causes: Mapping[str, Cause] = NO_CAUSES,
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; see `Store`."""
        running = (optuna.trial.TrialState.RUNNING,)
        workers, returned = self.workers(), []
        is_gone = or_succeeded(is_gone, workers)
        told = tasks_told_to_leave(workers, max(self.drained_at(), cancelled_at))
        signalled = {worker.id for worker in workers if worker.told is not None}
        for frozen in self._storage.get_all_trials(self._study_id, states=running):
            task, lost = frozen.user_attrs.get("task"), frozen.user_attrs.get("lost", 0)
            if task is None:  # another program's trial
                continue
            holder = WorkerId(task, frozen.user_attrs.get("life", 1))
            if is_gone(holder):
                cause = causes.get(task, Cause.PREEMPTED if holder in signalled else Cause.LOST)
                policy, is_told = self._sweep.policy(cause), holder in told
                verdict = judge_loss(holder, lost, told=is_told, cause=cause, policy=policy)
                self._give_back(frozen._trial_id, verdict)
                returned.append(frozen.number)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.id):
                self.check_in(written_off(worker))
        return returned

    def _give_back(self, trial_id: int, verdict: Verdict) -> None:
        lost = self._storage.get_trial(trial_id).user_attrs.get("lost", 0)
        marks: dict[str, object] = {"lost": lost + (verdict.outcome is Outcome.LOST)}
        state = optuna.trial.TrialState.WAITING
        if verdict.error is not None:
            pruned = verdict.outcome is Outcome.PRUNED
            ends = optuna.trial.TrialState
            marks["error"], state = verdict.error, ends.PRUNED if pruned else ends.FAIL
        note_failure(self._storage, trial_id, verdict)
        self._handles.pop(trial_id, None)
        for key, value in marks.items():
            self._storage.set_trial_user_attr(trial_id, key, value)
        self._storage.set_trial_state_values(trial_id, state)

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        running = (optuna.trial.TrialState.RUNNING,)
        held = {
            (frozen.user_attrs.get("task"), frozen.user_attrs.get("life")): frozen.number
            for frozen in self._storage.get_all_trials(
                self._study_id, deepcopy=False, states=running
            )
        }
        said = sorted_workers(v for key, v in attrs.items() if key.startswith(WORKER_KEY))
        return [replace(worker, trial=held.get(worker.id)) for worker in said]

    def sign_on(self, worker: WorkerRecord) -> WorkerRecord:
        """The worker's first word to the study, which says which life of its task this is."""
        lives = [known.life for known in self.workers() if known.task == worker.task]
        signed = replace(worker, life=max(lives, default=0) + 1)
        self.check_in(signed)
        return signed

    def check_in(self, worker: WorkerRecord, *, patience_s: float = 0.0) -> float:
        """Writes what a worker says of itself; when workers were last asked to leave, or 0.0."""
        key = f"{WORKER_KEY}{worker.task}:{worker.life}"
        said = asdict(replace(worker, trial=None))
        self._storage.set_study_system_attr(self._study_id, key, said)
        return self.drained_at()

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
        )

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        late = {
            int(key.removeprefix(LATE_KEY).partition(":")[0]): {"late_values": value}
            for key, value in self._storage.get_study_system_attrs(self._study_id).items()
            if key.startswith(LATE_KEY)
        }
        records = [translate.record(frozen) for frozen in self._study.get_trials(deepcopy=False)]
        return [
            replace(record, attrs={**without_failures(record.attrs), **late.get(record.number, {})})
            for record in records
        ]

    def rest(self) -> None:
        """Optuna holds no connection between two questions here."""

    def _take(self, worker: WorkerRecord) -> tuple[int, int, int, int] | None:
        """A trial's id, number, attempt and root."""
        waiting = (optuna.trial.TrialState.WAITING,)
        running = optuna.trial.TrialState.RUNNING
        for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False, states=waiting):
            trial_id, before = frozen._trial_id, frozen.user_attrs
            attempt, root = before.get("attempt", 0) + 1, before.get("retry_of", frozen.number)
            marks = {
                "attempt": attempt,
                "task": worker.task,
                "life": worker.life,
                "node": worker.node,
                "gpus": worker.gpus,
                "seed": derive_seed(self._sweep.seed, root),
            }
            try:
                mine = self._storage.set_trial_state_values(trial_id, running)
                for key, value in marks.items() if mine else ():
                    self._storage.set_trial_user_attr(trial_id, key, value)
            except optuna.exceptions.UpdateFinishedTrialError:  # another one was faster
                continue
            if mine:
                return trial_id, frozen.number, attempt, root
        return None

    def _keep(self, claim: Claim, attrs: Mapping[str, object]) -> None:
        for key, value in attrs.items():
            self._storage.set_trial_user_attr(claim.trial_id, key, value)


class _Journal(JournalFile, BaseJournalBackend):
    """Our file behind Optuna's storage."""


def open_journal(location: Location) -> BaseStorage:
    """The journal, made if it is not there. Raises StudyError."""
    try:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        location.path.touch()
    except OSError as wrong:
        raise StudyError(f"{location}: {wrong.strerror}") from wrong
    return JournalStorage(_Journal(location.path))


def open_tables(location: Location, *, new: bool) -> BaseStorage:
    """The tables as Optuna opens them; `new` makes them, and checks their schema."""
    from optuna.storages import RDBStorage  # which loads SQLAlchemy

    return RDBStorage(
        engine_url(location),
        engine_kwargs=engine_options(location),
        skip_compatibility_check=not new,
        skip_table_creation=not new,
    )
