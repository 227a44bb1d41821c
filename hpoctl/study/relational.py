"""A study in a database: each of a worker's steps is one round trip on Optuna's own tables.

Samplers and pruners are Optuna's; they work on a `Mirror` that is read and written here. A study
that is filled and worked off here reads in Optuna like any other.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState

from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, WorkerRecord
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.connect import Rows, named_error
from hpoctl.study.database import Database, Statement
from hpoctl.study.location import Kind, Location
from hpoctl.study.mirror import Mirror, frozen
from hpoctl.study.native import NativeStore, open_tables
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
from hpoctl.study.statements import NEW_ATTRS, NEW_PARAMS, NEW_VALUES, News, Parts, Statements
from hpoctl.sweep import Asha, Median, Sweep, Tpe
from hpoctl.trial import derive_seed

log = logging.getLogger(__name__)


class RelationalStore:
    """One study, open for reading and writing."""

    def __init__(self, location: Location, study_id: int, sweep: Sweep) -> None:
        self._location = location
        self._sweep = sweep
        self._database = Database(location)
        self._sql = Statements(location.kind, study_id)
        self._mirror = Mirror(sweep.study, [metric.goal for metric in sweep.metrics])
        self._pruner = translate.pruner(sweep)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=self._mirror, pruner=self._pruner
        )
        self._parts = _parts(sweep)
        self._marks: dict[News, int] = {}
        self._claimed: set[int] = set()

    # The queue

    def append(self, points: Iterable[Params]) -> None:
        """Queues all points or none, in their order, numbered on from the last trial."""
        whole = list(points)
        if not whole:
            return
        encode = translate.encoder(self._sweep.search_space)
        ask, study_id = self._database.ask, self._sql.study_id
        trials = "trials (number, study_id, state)"
        params = "trial_params (trial_id, param_name, param_value, distribution_json)"
        try:
            ask(("begin immediate" if self._location.kind is Kind.SQLITE else "begin", ()))
            # The lock under which Optuna itself numbers trials.
            lock = "" if self._location.kind is Kind.SQLITE else " for update"
            ask((f"select study_id from studies where study_id = ?{lock}", [study_id]))
            first = ask(self._sql.size())[0][0]
            numbers = range(first, first + len(whole))
            self._database.insert(trials, [(number, study_id, "WAITING") for number in numbers])
            new = "select number, trial_id from trials where study_id = ? and number >= ?"
            ids = ask((new, [study_id, first]))
            self._database.insert(
                params,
                [
                    (trial_id, name, *encode(name, value))
                    for number, trial_id in ids
                    for name, value in whole[number - first].items()
                ],
            )
            ask(("commit", ()))
            if not ask(self._sql.has_index()):
                ask(self._sql.index())
            for statement in self._sql.count_rows():
                ask(statement)
        except StudyError:
            raise
        except Exception as wrong:  # each driver has its own tree of errors
            raise named_error(self._location, wrong) from wrong
        finally:
            self.rest()

    def size(self) -> int:
        """How many trials the study has, in all states."""
        return int(self._database.run(self._sql.size())[0][0])

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.metrics]
        self._database.run(self._sql.keep_study_attr("study:metric_names", names))

    def claim(self, attrs: Mapping[str, object]) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""
        started = self._sql.now()
        rows = self._take(attrs, started)
        if not rows:
            return None
        [trial_id] = self._mirror.put(rows, own=True)
        names = {row[4] for row in rows if row[0] == "param"}
        before = any(row[0] == "trial" and row[3] for row in rows)
        if before or not names.issuperset(self._sweep.search_space.parameters):
            self._mirror.put(self._database.run(self._sql.trial(trial_id)), own=True)
        self._claimed.add(trial_id)
        trial = self._mirror.get_trial(trial_id)
        space = self._sweep.search_space.parameters
        if all(name in trial.params for name in space):
            params: Params = {name: trial.params[name] for name in space}
        else:
            params = self._sample(trial_id, trial.number)
        task = attrs.get("task")
        return Claim(
            number=trial.number,
            params=params,
            trial_id=trial_id,
            task=None if task is None else str(task),
            started=started,
        )

    def _take(self, attrs: Mapping[str, object], started: datetime) -> Rows:
        if self._location.kind is Kind.SQLITE:
            return self._take_locally(attrs, started)
        statements = self._sql.claim(attrs, self._sweep.seed, started)
        # Where the answer was lost, the trial may be ours already.
        taken = self._sql.taken_at(started, attrs.get("task"), known=self._claimed)
        return self._database.run(*statements, again=[taken])

    def _take_locally(self, attrs: Mapping[str, object], started: datetime) -> Rows:
        """SQLite has no network and no SKIP LOCKED: the whole claim is under its one lock."""

        def take() -> Rows:
            found = self._database.ask(self._sql.first_waiting())
            if not found:
                return ()
            trial_id, number = found[0]
            seed = {"seed": derive_seed(self._sweep.seed, number)}
            marks = [self._sql.user_attr(trial_id, k, v) for k, v in {**attrs, **seed}.items()]
            for statement in (self._sql.take(trial_id, started), *marks):
                self._database.ask(statement)
            return self._database.ask(self._sql.trial(trial_id))

        return self._database.locked(take)

    def _sample(self, trial_id: int, number: int) -> Params:
        """The parameters as Optuna's sampler wants them, kept in the database."""
        if isinstance(self._sweep.sampler, Tpe):
            self._database_to_mirror(NEW_PARAMS)
        self._study.sampler = translate.sampler(self._sweep, number)
        self._study._thread_local.cached_all_trials = None  # of the trial before
        handle = optuna.Trial(self._study, trial_id)
        params = {
            name: translate.suggest(handle, name, distribution)
            for name, distribution in self._sweep.search_space.parameters.items()
        }
        new, self._mirror.new_params = self._mirror.new_params, []
        self._mirror.new_attrs = {}  # a sampler's notes on a trial whose parameters are all known
        if new:
            self._database.run(self._sql.keep_params(trial_id, new))
        return params

    # A running trial

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the pruner wants the trial to end.

        Nothing is kept of a trial that is no longer this claim's; where no pruner has to be asked,
        the answer is True then.
        """
        keep = self._sql.report(claim, value, step)
        several = len(self._sweep.metrics) > 1  # Optuna reports no steps where there are two
        if several or isinstance(self._pruner, optuna.pruners.NopPruner):
            self._mirror.set_trial_intermediate_value(claim.trial_id, step, value)
            return not self._database.run(keep, self._sql.is_held(claim))
        news = NEW_ATTRS if isinstance(self._sweep.pruner, Asha) else NEW_VALUES
        self._database_to_mirror(news, keep)
        self._mirror.set_trial_intermediate_value(claim.trial_id, step, value)
        prune = bool(self._pruner.prune(self._study, self._mirror.get_trial(claim.trial_id)))
        new, self._mirror.new_attrs = self._mirror.new_attrs, {}
        if new:  # other workers compare with them now, not at the next report
            self._database.run(*(self._sql.system_attr(claim, k, v) for k, v in new.items()))
        return prune

    def _database_to_mirror(self, news: News, *before: Statement) -> None:
        """Reads what changed, in one round trip with the statements that stand before."""
        own_open = self._mirror.open if news is NEW_PARAMS else ()
        question = self._sql.changed(
            {news: self._marks.get(news, 0)},
            self._parts or Parts(),
            open_=sorted(own_open),
            known=sorted(self._mirror.finished),
        )
        rows = self._database.run(*before, question)
        [mark] = [row[2] for row in rows if row[0] == "mark"]
        self._marks[news] = mark
        self._mirror.put(row for row in rows if row[0] != "mark")

    def complete(self, claim: Claim, values: Sequence[float], attrs: Mapping[str, object]) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna."""
        if any(math.isnan(value) for value in values):
            self.fail(claim, "the objective returned NaN")
        elif not self._finish(claim, OptunaState.COMPLETE, [float(v) for v in values], attrs):
            late = self._sql.user_attr(claim.trial_id, "late_values", list(values))
            self._database.run(late)

    def prune(self, claim: Claim) -> None:
        """Ends a trial early; its last report becomes its value."""
        steps = self._mirror.get_trial(claim.trial_id).intermediate_values
        last = steps[max(steps)] if steps and len(self._sweep.metrics) == 1 else math.nan
        self._finish(claim, OptunaState.PRUNED, None if math.isnan(last) else [last], {})

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a trial that raised, with its traceback."""
        self._finish(claim, OptunaState.FAIL, None, {"error": error[-ERROR_CHARS:]})

    def _finish(
        self,
        claim: Claim,
        state: OptunaState,
        values: Sequence[float] | None,
        attrs: Mapping[str, object],
    ) -> bool:
        """False if the trial was no longer this claim's; it is left as it is then."""
        ended = self._sql.now()
        kept = self._database.run(*self._sql.finish(claim, state.name, ended, values, attrs))
        self._claimed.discard(claim.trial_id)
        if kept and self._parts is not None:
            self._mirror.end(claim.trial_id, state, values)
        else:
            self._mirror.drop(claim.trial_id)
        if not kept:
            log.warning("trial %d was given to another worker meanwhile", claim.number)
        return bool(kept)

    def rest(self) -> None:
        """Holds no connection until the next question."""
        self._database.rest()

    # Workers

    def return_lost(
        self, is_gone: Callable[[str], bool], *, cancelled_at: float = 0.0
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; see `Store`."""
        workers, returned = self.workers(), []
        told = tasks_told_to_leave(workers, max(self.drained_at(), cancelled_at))
        attrs: dict[tuple[int, int], dict[str, Any]] = {}
        for trial_id, number, key, text in self._database.run(self._sql.running()):
            attrs.setdefault((number, trial_id), {})[key] = json.loads(text)
        for (number, trial_id), kept in sorted(attrs.items()):
            task = kept.get("task")
            if task is None or not is_gone(task):  # no task: another program's trial
                continue
            marks = marks_of_loss(kept.get("lost", 0), task, told=task in told)
            state, ended = ("FAIL", self._sql.now()) if "error" in marks else ("WAITING", None)
            self._database.run(
                *(self._sql.user_attr(trial_id, key, value) for key, value in marks.items()),
                self._sql.requeue(trial_id, state, ended),
            )
            returned.append(number)
        for worker in workers:
            if worker.ended_at is None and is_gone(worker.task):
                self.keep_worker(written_off(worker))
        return returned

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""
        found = self._database.run(self._sql.study_attrs(WORKER_KEY))
        return sorted_workers(json.loads(text) for (text,) in found)

    def keep_worker(self, worker: WorkerRecord) -> None:
        """Writes what a worker says of itself over what it said before."""
        self._database.run(self._sql.keep_study_attr(f"{WORKER_KEY}{worker.task}", asdict(worker)))

    def drain(self, at: float) -> None:
        """Asks every worker that started before `at` to finish its trial and leave."""
        self._database.run(self._sql.keep_study_attr(DRAIN_KEY, at))

    def drained_at(self) -> float:
        """When workers were last asked to leave; 0.0 if never."""
        found = self._database.run(self._sql.study_attr(DRAIN_KEY))
        return float(json.loads(found[0][0])) if found else 0.0

    def gpu_hours(self, now: float) -> float:
        """GPU-hours of all workers of this study up to `now`, running ones included."""
        return sum(worker.gpu_hours(now) for worker in self.workers())

    # Reading

    def summary(self) -> Summary:
        """The study at a glance, by Optuna's own answers; slower than `study.summary`."""
        return NativeStore(open_tables(self._location, new=False), self._sweep).summary()

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        rows = self._database.run(self._sql.everything())
        attrs: dict[int, dict[str, Any]] = {}
        for trial_id, key, text in self._database.run(self._sql.user_attrs()):
            attrs.setdefault(trial_id, {})[key] = json.loads(text)
        times = {row[0]: row[1:] for row in self._database.run(self._sql.times())}
        found = []
        for trial in sorted(frozen(rows), key=lambda trial: trial.number):
            trial.user_attrs = attrs.get(trial._trial_id, {})
            with suppress(KeyError):  # queued between the questions
                start, end = times[trial._trial_id]
                trial.datetime_start, trial.datetime_complete = _utc(start), _utc(end)
            found.append(translate.record(trial))
        return found


def _parts(sweep: Sweep) -> Parts | None:
    """What samplers and pruners read of other trials; None where they read nothing."""
    tpe, median, asha = (
        isinstance(sweep.sampler, Tpe),
        isinstance(sweep.pruner, Median),
        isinstance(sweep.pruner, Asha),
    )
    if not (tpe or median or asha):
        return None
    steps = (*(["PRUNED"] if tpe else []), *(["COMPLETE"] if median else []))
    return Parts(params=tpe, values=True, attrs=asha, steps=steps)


def _utc(stored: Any) -> datetime | None:
    """A time as read by a driver; SQLite's is text."""
    if isinstance(stored, str):
        stored = datetime.fromisoformat(stored)
    return None if stored is None else stored.replace(tzinfo=UTC)
