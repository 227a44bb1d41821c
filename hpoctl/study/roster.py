"""The workers of a study in a database: what they say of themselves, and what they are told."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from hpoctl import hours
from hpoctl.record import WorkerRecord
from hpoctl.study.database import PATIENCE_S, Database
from hpoctl.study.protocol import DRAIN_KEY, sorted_workers
from hpoctl.study.statements import Statements
from hpoctl.sweep import Sweep

_CHECKED_IN_S = 1.0  # for so long what a worker said of itself is new enough, if only it counted on


class Roster:
    """The workers of one study."""

    def __init__(self, database: Database, sql: Statements, sweep: Sweep) -> None:
        self._database = database
        self._sql = sql
        self._sweep = sweep
        self._said: WorkerRecord | None = None
        self._said_at = 0.0
        self._drained_at = 0.0

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""
        found = self._database.run(self._sql.workers())
        return sorted_workers(
            {**json.loads(text), "life": life, "trial": number} for text, life, number in found
        )

    def sign_on(self, worker: WorkerRecord) -> WorkerRecord:
        """The worker's first word to the study, which says which life of its task this is."""
        statements = self._sql.sign_on(worker)
        found = self._database.run(*statements, again=[self._sql.life(worker)])
        return replace(worker, life=int(found[0][0]))

    def check_in(self, worker: WorkerRecord, *, patience_s: float = PATIENCE_S) -> float:
        """Writes what a worker says of itself; when workers were last asked to leave, or 0.0.

        A worker whose trials take milliseconds is answered from the last second.
        """
        now = time.monotonic()
        if now < self._said_at + _CHECKED_IN_S and self._said == _uncounted(worker):
            return self._drained_at
        found = self._database.run(*self._sql.check_in(worker), patience_s=patience_s)
        self._drained_at = float(json.loads(found[0][0])) if found else 0.0
        self._said, self._said_at = _uncounted(worker), now
        return self._drained_at

    def drain(self, at: float) -> None:
        """Asks every worker that started before `at` to finish its trial and leave."""
        self._database.run(self._sql.keep_study_attr(self._sql.study_id, DRAIN_KEY, at))

    def drained_at(self) -> float:
        """When workers were last asked to leave; 0.0 if never."""
        found = self._database.run(self._sql.study_attr(DRAIN_KEY))
        return float(json.loads(found[0][0])) if found else 0.0

    def gpu_hours(self, now: float) -> float:
        """GPU-hours of all workers of this study up to `now`, running ones included."""
        return hours.spent(self.workers(), now, self._sweep.lease.total_seconds())


def _uncounted(worker: WorkerRecord) -> WorkerRecord:
    """What a worker says of itself, but for what changes with every trial."""
    return replace(worker, seen_at=0.0, trials=0, training_s=0.0, trial=None)
