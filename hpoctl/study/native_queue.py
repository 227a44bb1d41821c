"""The queue of a study that Optuna keeps, and the lock under which everything there is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage

from hpoctl.record import TrialRecord
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.database import PATIENCE_S
from hpoctl.study.journal import JournalFile
from hpoctl.study.native_past import NativePast, without_failures
from hpoctl.study.protocol import LATE_KEY, Past, retriable
from hpoctl.sweep import Sweep

log = logging.getLogger(__name__)
_AT_ONCE = 1_000  # trials queued in one write, which holds the journal's lock for so long
_T = TypeVar("_T")
_Trial = optuna.trial.FrozenTrial


class NativeQueue:
    """The trials of one study: adds to them and reads them."""

    def __init__(
        self, storage: BaseStorage, sweep: Sweep, *, journal: JournalFile | None = None
    ) -> None:
        self._storage = storage
        self._journal = journal
        self._sweep = sweep
        self._study_id = storage.get_study_id_from_name(sweep.study)
        self.past: Past = NativePast(storage, self._study_id)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=storage, pruner=translate.pruner(sweep)
        )

    def _exclusively(self, action: Callable[[], _T], *, patience_s: float = PATIENCE_S) -> _T:
        """Runs an action while nobody else writes; it may run again, until it is written."""
        if self._journal is None:
            return action()
        answer = self._journal.exclusively(action, patience_s=patience_s)
        while True:  # read what was written, to which Optuna objects if it came too late
            try:
                self._storage.get_n_trials(self._study_id)
            except optuna.exceptions.UpdateFinishedTrialError as wrong:
                log.warning("written after the lock was lost, and ignored: %s", wrong)
            else:
                return answer

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""
        left = iter(points)
        while part := [*islice(left, _AT_ONCE)]:
            self._queue(partial(self._templates, part))

    def fill(self, whole: Sequence[Params]) -> list[int]:
        """Queues what is missing of a whole queue at its end; gives the numbers of those."""

        def missing() -> list[_Trial]:
            there = self.size() - self.retries()
            return self._templates(whole[there : there + _AT_ONCE])

        numbers: list[int] = []
        while part := self._queue(missing):
            numbers += part
        return numbers

    def _templates(self, points: Iterable[Params]) -> list[_Trial]:
        return [translate.template(self._sweep.search_space, point) for point in points]

    def _queue(self, choose: Callable[[], Sequence[_Trial]]) -> list[int]:
        """Queues what is chosen while nobody else adds to the queue; the numbers of those."""

        def write() -> list[int]:
            first, templates = self.size(), choose()
            for template in templates:
                self._storage.create_new_trial(self._study_id, template)
            return [*range(first, first + len(templates))]

        return self._exclusively(write)

    def retry(self, numbers: Collection[int]) -> list[int]:
        """Queues failed trials once more, as new ones; gives the numbers of those."""

        def chosen() -> list[_Trial]:
            records = {record.number: record for record in self.records()}
            trials = self._study.get_trials(deepcopy=False)
            last = {record.root: record.number for record in records.values()}
            templates = []
            for number in retriable(records, numbers):
                if last[records[number].root] != number:  # repeated already
                    continue
                space, point = self._sweep.search_space, records[number].params
                template = translate.template(space, point, translate.parent(trials[number]))
                attempt = records[number].attrs.get("attempt", 1)
                template.user_attrs = {"retry_of": records[number].root, "attempt": attempt}
                templates.append(template)
            return templates

        return self._queue(chosen)

    def size(self) -> int:
        """How many trials the study has, in all states."""
        return self._storage.get_n_trials(self._study_id)

    def has_waiting(self) -> bool:
        """Whether any trial waits."""
        return bool(
            self._storage.get_all_trials(self._study_id, False, (optuna.trial.TrialState.WAITING,))
        )

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""
        names = [metric.name for metric in self._sweep.objectives]
        self._storage.set_study_system_attr(self._study_id, "study:metric_names", names)

    def retries(self) -> int:
        """How many of them repeat another one."""
        return sum("retry_of" in record.attrs for record in self.records())

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
