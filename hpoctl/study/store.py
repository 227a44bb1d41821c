"""The study as Optuna knows it: create, queue, claim, report, finish. The only door to Optuna.

The budget is the length of the queue: `create` queues every trial once, `claim` takes one that
waits and never makes one, so that any number of workers runs exactly the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerRecord
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.database import Attrs, Queue, engine_options, engine_url
from hpoctl.study.location import Kind, Location
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed

WORKER_KEY = "hpoctl:worker:"
DRAIN_KEY = "hpoctl:drained_at"
OWNER_KEY = "hpoctl:run_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A trial that one worker has taken: its number and its parameters."""

    number: int
    params: Params
    handle: optuna.Trial


class Store:
    """One study, open for reading and writing."""

    def __init__(self, storage: BaseStorage, queue: Queue | None, sweep: Sweep) -> None:
        self._storage = storage
        self._queue = queue
        self._sweep = sweep
        self._study_id = storage.get_study_id_from_name(sweep.study)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=storage, pruner=translate.pruner(sweep)
        )

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""
        space, whole = self._sweep.search_space, list(points)
        if self._queue is not None:
            self._queue.append(whole, lambda name, value: translate.encode(space, name, value))
            return
        for point in whole:
            self._storage.create_new_trial(self._study_id, translate.template(space, point))

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.metrics]
        self._storage.set_study_system_attr(self._study_id, "study:metric_names", names)

    def claim(self, attrs: Mapping[str, object]) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""

        def with_seed(number: int) -> Mapping[str, object]:
            return {**attrs, "seed": derive_seed(self._sweep.seed, number)}

        claim = self._queue.claim if self._queue is not None else self._claim_in_journal
        taken = claim(with_seed)
        if taken is None:
            return None
        trial_id, number = taken
        self._study.sampler = translate.sampler(self._sweep, number)
        handle = optuna.Trial(self._study, trial_id)
        params = {
            name: translate.suggest(handle, name, distribution)
            for name, distribution in self._sweep.search_space.parameters.items()
        }
        return Claim(number=number, params=params, handle=handle)

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the pruner wants the trial to end."""
        if len(self._sweep.metrics) > 1:  # Optuna reports no steps where there are two metrics
            trial_id = claim.handle._trial_id
            self._storage.set_trial_intermediate_value(trial_id, step, value)
            return False
        claim.handle.report(value, step)
        return bool(claim.handle.should_prune())  # a pruner may answer in numpy's bool

    def complete(self, claim: Claim, values: Sequence[float], attrs: Mapping[str, object]) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN")
            return
        self._keep(claim, attrs)
        self._study.tell(claim.handle, list(values))

    def prune(self, claim: Claim) -> None:
        """Ends a trial early; its last report becomes its value."""
        self._study.tell(claim.handle, state=optuna.trial.TrialState.PRUNED)

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a trial that raised, with its traceback."""
        self._keep(claim, {"error": error[-_ERROR_CHARS:]})
        self._study.tell(claim.handle, state=optuna.trial.TrialState.FAIL)

    def return_lost(
        self, is_gone: Callable[[str], bool], *, cancelled_at: float = 0.0
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; gives their numbers.

        A trial keeps its parameters and its folder. One that was lost before is failed instead, so
        that a trial that kills its worker does not kill every worker; workers that were told to
        leave, or cancelled, do not count.
        """
        running = (optuna.trial.TrialState.RUNNING,)
        returned = []
        workers, told_at = self.workers(), max(self.drained_at(), cancelled_at)
        told = {worker.task for worker in workers if worker.started_at < told_at}
        for frozen in self._storage.get_all_trials(self._study_id, states=running):
            task, lost = frozen.user_attrs.get("task"), frozen.user_attrs.get("lost", 0)
            if task is None or not is_gone(task):  # no task: another program's trial
                continue
            attrs: dict[str, object] = {"lost": lost + (task not in told)}
            state = optuna.trial.TrialState.WAITING
            if lost and task not in told:
                attrs["error"] = f"its worker was gone twice, the last time {task}"
                state = optuna.trial.TrialState.FAIL
            for key, value in attrs.items():
                self._storage.set_trial_user_attr(frozen._trial_id, key, value)
            self._storage.set_trial_state_values(frozen._trial_id, state)
            returned.append(frozen.number)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.task):
                gone = replace(worker, trial=None, failed=True, reason="gone without a word")
                self.keep_worker(replace(gone, ended_at=worker.seen_at))
        return returned

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        return [WorkerRecord(**v) for key, v in attrs.items() if key.startswith(WORKER_KEY)]

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
            workers=tuple(sorted(self.workers(), key=lambda w: (w.started_at, w.task))),
        )

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [translate.record(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def _claim_in_journal(self, attrs: Attrs) -> tuple[int, int] | None:
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
                for key, value in attrs(frozen.number).items():
                    self._storage.set_trial_user_attr(trial_id, key, value)
                return trial_id, frozen.number
        return None

    def _keep(self, claim: Claim, attrs: Mapping[str, object]) -> None:
        for key, value in attrs.items():
            self._storage.set_trial_user_attr(claim.handle._trial_id, key, value)


_ERROR_CHARS = 5_000  # of a traceback's end: as JSON 60 kB at most, MariaDB's TEXT holds 64


def create(location: Location, sweep: Sweep, points: Iterable[Params], *, owner: str) -> Store:
    """The study with every trial of the budget queued; goes on where an earlier call was killed.

    Raises StudyError if the study is another `owner`'s: its run directory names it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _named_errors(location):
        storage = _open_storage(location, new=True)
        study = optuna.create_study(
            study_name=sweep.study,
            storage=storage,
            directions=[metric.goal for metric in sweep.metrics],
            load_if_exists=True,
        )
        store = _store(storage, location, sweep)
        made_by = study.user_attrs.get(OWNER_KEY, "another program" if study.trials else owner)
        if made_by != owner:
            raise StudyError(
                f"{location}: study '{sweep.study}' is there already, made by {made_by}:"
                " choose another 'study' name"
            )
        study.set_user_attr(OWNER_KEY, owner)
        store.name_metrics()
        whole = list(points)
        store.append(whole[len(store.records()) :])
        return store


def delete(location: Location, study: str, *, owner: str) -> None:
    """Deletes the study with all its trials, if it is this owner's."""
    with _named_errors(location):
        storage = _open_storage(location, new=False)
        study_id = storage.get_study_id_from_name(study)
        if storage.get_study_user_attrs(study_id).get(OWNER_KEY) == owner:
            storage.delete_study(study_id)


def open_(location: Location, sweep: Sweep) -> Store:
    """The study that `create` made. Raises StudyError if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if location.kind in (Kind.JOURNAL, Kind.SQLITE) and not location.path.exists():
        raise StudyError(f"{location}: no such file: was the study deleted?")
    with _named_errors(location):
        return _store(_open_storage(location, new=False), location, sweep)


def _store(storage: BaseStorage, location: Location, sweep: Sweep) -> Store:
    if location.kind is Kind.JOURNAL:
        return Store(storage, None, sweep)
    return Store(storage, Queue(location, storage.get_study_id_from_name(sweep.study)), sweep)


def _open_storage(location: Location, *, new: bool) -> BaseStorage:
    if location.kind is Kind.JOURNAL:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(location.path)))
    return RDBStorage(
        engine_url(location),
        engine_kwargs=engine_options(location),
        skip_compatibility_check=not new,
        skip_table_creation=not new,
    )


@contextmanager
def _named_errors(location: Location) -> Iterator[None]:
    """Says what is wrong with a storage in one line, with its true cause and no password."""
    try:
        yield
    except KeyError as wrong:
        raise StudyError(f"{location}: the study is not there: was it deleted?") from wrong
    except ModuleNotFoundError as wrong:
        raise StudyError(f"{location}: pip install 'hpoctl[mysql]' brings {wrong.name}") from wrong
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as wrong:
        cause = getattr(wrong.__cause__ or wrong, "orig", None) or wrong
        text = str(cause).partition("(Background on this error")[0]
        raise StudyError(f"{location}: {' '.join(text.split())}") from wrong
