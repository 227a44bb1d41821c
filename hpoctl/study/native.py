"""A study through Optuna's own storages: the journal, and tables of a schema not known here.

Every step is Optuna's API, so it is right wherever Optuna is, and slow on a database.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerRecord
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.connect import engine_options, engine_url
from hpoctl.study.journal import JournalFile
from hpoctl.study.location import Location
from hpoctl.study.protocol import (
    DRAIN_KEY,
    ERROR_CHARS,
    WORKER_KEY,
    Claim,
    marks_of_loss,
    sorted_workers,
    tasks_told_to_leave,
    written_off,
)
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed


class NativeStore:
    """One study, open for reading and writing."""

    def __init__(self, storage: BaseStorage, sweep: Sweep) -> None:
        self._storage = storage
        self._handles: dict[int, optuna.Trial] = {}
        self._sweep = sweep
        self._study_id = storage.get_study_id_from_name(sweep.study)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=storage, pruner=translate.pruner(sweep)
        )

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""
        for point in points:
            template = translate.template(self._sweep.search_space, point)
            self._storage.create_new_trial(self._study_id, template)

    def size(self) -> int:
        """How many trials the study has, in all states."""
        return self._storage.get_n_trials(self._study_id)

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.metrics]
        self._storage.set_study_system_attr(self._study_id, "study:metric_names", names)

    def claim(self, attrs: Mapping[str, object]) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""
        taken = self._take(attrs)
        if taken is None:
            return None
        trial_id, number = taken
        self._study.sampler = translate.sampler(self._sweep, number)
        handle = optuna.Trial(self._study, trial_id)
        params = {
            name: translate.suggest(handle, name, distribution)
            for name, distribution in self._sweep.search_space.parameters.items()
        }
        self._handles[trial_id] = handle
        return Claim(number=number, params=params, trial_id=trial_id)

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the pruner wants the trial to end."""
        if len(self._sweep.metrics) > 1:  # Optuna reports no steps where there are two metrics
            self._storage.set_trial_intermediate_value(claim.trial_id, step, value)
            return False
        handle = self._handles[claim.trial_id]
        handle.report(value, step)
        return bool(handle.should_prune())  # a pruner may answer in numpy's bool

    def complete(self, claim: Claim, values: Sequence[float], attrs: Mapping[str, object]) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN")
            return
        self._keep(claim, attrs)
        self._study.tell(self._handles.pop(claim.trial_id), list(values))

    def prune(self, claim: Claim) -> None:
        """Ends a trial early; its last report becomes its value."""
        self._study.tell(self._handles.pop(claim.trial_id), state=optuna.trial.TrialState.PRUNED)

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a trial that raised, with its traceback."""
        self._keep(claim, {"error": error[-ERROR_CHARS:]})
        self._study.tell(self._handles.pop(claim.trial_id), state=optuna.trial.TrialState.FAIL)

    def return_lost(
        self, is_gone: Callable[[str], bool], *, cancelled_at: float = 0.0
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; see `Store`."""
        running = (optuna.trial.TrialState.RUNNING,)
        workers, returned = self.workers(), []
        told = tasks_told_to_leave(workers, max(self.drained_at(), cancelled_at))
        for frozen in self._storage.get_all_trials(self._study_id, states=running):
            task, lost = frozen.user_attrs.get("task"), frozen.user_attrs.get("lost", 0)
            if task is None or not is_gone(task):  # no task: another program's trial
                continue
            marks = marks_of_loss(lost, task, told=task in told)
            for key, value in marks.items():
                self._storage.set_trial_user_attr(frozen._trial_id, key, value)
            fail, wait = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.WAITING
            state = fail if "error" in marks else wait
            self._storage.set_trial_state_values(frozen._trial_id, state)
            returned.append(frozen.number)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.task):
                self.keep_worker(written_off(worker))
        return returned

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        return sorted_workers(v for key, v in attrs.items() if key.startswith(WORKER_KEY))

    def keep_worker(self, worker: WorkerRecord) -> None:
        """Writes what a worker says of itself over what it said before."""
        key = f"{WORKER_KEY}{worker.task}"
        self._storage.set_study_system_attr(self._study_id, key, asdict(worker))

    def drain(self, at: float) -> None:
        """Asks every worker that started before `at` to finish its trial and leave."""
        self._storage.set_study_system_attr(self._study_id, DRAIN_KEY, at)

    def drained_at(self) -> float:
        """When workers were last asked to leave; 0.0 if never."""
        return float(self._storage.get_study_system_attrs(self._study_id).get(DRAIN_KEY, 0.0))

    def gpu_hours(self, now: float) -> float:
        """GPU-hours of all workers of this study up to `now`, running ones included."""
        return sum(worker.gpu_hours(now) for worker in self.workers())

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
        )

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [translate.record(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def rest(self) -> None:
        """Optuna holds no connection between two questions here."""

    def _take(self, attrs: Mapping[str, object]) -> tuple[int, int] | None:
        waiting = (optuna.trial.TrialState.WAITING,)
        for frozen in self._storage.get_all_trials(self._study_id, deepcopy=False, states=waiting):
            trial_id = frozen._trial_id
            try:
                mine = self._storage.set_trial_state_values(
                    trial_id, optuna.trial.TrialState.RUNNING
                )
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            if mine:
                seed = derive_seed(self._sweep.seed, frozen.number)
                for key, value in {**attrs, "seed": seed}.items():
                    self._storage.set_trial_user_attr(trial_id, key, value)
                return trial_id, frozen.number
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
