"""What a study says: status, trials, the best one, logs, the report. Changes nothing in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl import failures, hours, status
from hpoctl.arrays import left
from hpoctl.control.opened import OpenRun, open_run
from hpoctl.errors import BatchSystemError, StudyError
from hpoctl.failures import FailureGroup
from hpoctl.record import Charge, Stop, TrialRecord, TrialState
from hpoctl.status import Status
from hpoctl.words import Gist

if TYPE_CHECKING:
    from hpoctl.report import Report

log = logging.getLogger(__name__)
_POLL_S = 0.5
_WAITING_POLL_S = 2.0  # it takes all trials to look at one that waits


def read_status(study: str, *, accounting: bool = False) -> Status:
    """The study at a glance; changes nothing. With `accounting`, beside what that knows now."""
    opened = open_run(study)
    summary, look = opened.summary(), opened.look()
    charged = _charges(opened) if accounting else None
    charges = charged or opened.backend.remembered(opened.run_dir) or ()
    now = time.time()
    workers = status.join_workers(summary.workers, look)
    alive = [worker for worker in summary.workers if worker.ended_at is None]
    fates = opened.backend.fates_by(look, alive, opened.run_dir)
    return Status(
        run=opened.run,
        run_dir=opened.run_dir.path,
        gist=opened.gist,
        storage=str(opened.location),
        summary=summary,
        workers=workers,
        gpu_hours=hours.total(status.ledger(summary.workers, look, charges, now), charged),
        eta_s=status.eta_s(summary, workers),
        lost=status.lost_trials(alive, fates),
        undelivered=opened.run_dir.undelivered(),
        silence=look.silence,
        age_s=round(now - look.asked_at) if look.asked_at else None,
        unsubmitted=sum(array.tasks for array in left(opened.run_dir)),
    )


def _charges(opened: OpenRun) -> tuple[Charge, ...] | None:
    """What accounting charges for the run; None where there is none, or where it is silent."""
    try:
        return opened.backend.charges(opened.ids(), opened.run_dir)
    except BatchSystemError as wrong:
        log.info("no word from accounting: %s", wrong)
        return None


def read_trials(study: str) -> tuple[list[TrialRecord], Gist]:
    """All trials of a study by number, and how its values are called."""
    opened = open_run(study)
    return opened.store().records(), opened.gist


def read_trials_csv(study: str, states: Collection[str]) -> str:
    """The table of the report, of trials in one of these states; of all where none is given."""
    from hpoctl import report

    opened = open_run(study)
    kept = [record for record in opened.store().records() if not states or record.state in states]
    return report.trials_summary(kept, opened.sweep().objectives)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What went wrong in a study so far, and what it has concluded from that."""

    study: str
    groups: tuple[FailureGroup, ...]
    stop: Stop | None
    bad_nodes: Mapping[str, str]


def read_failures(study: str) -> Failures:
    """The failures of a study, those that are the same together."""
    opened = open_run(study)
    past = opened.store().past
    return Failures(
        study=opened.run.study,
        groups=failures.group(past.ended()),
        stop=past.stopped(),
        bad_nodes=past.bad_nodes(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best trials of a study: one, or with several metrics those that no other one beats.

    `values` names what their values are.
    """

    study: str
    trials: tuple[TrialRecord, ...]
    values: Sequence[str]

    @property
    def is_front(self) -> bool:
        return len(self.values) > 1


def read_best(study: str, number: int | None = None) -> Best:
    """The best feasible trials, or the one of this number. Raises StudyError where there is none.

    Only a single metric's best is found without loading Optuna.
    """
    opened = open_run(study)
    name, metrics = opened.run.study, opened.gist.metrics
    if number is not None:
        return Best(study=name, trials=(_complete(opened, number),), values=metrics[:1])
    if len(metrics) > 1:
        from hpoctl.report import front

        trials = tuple(front(opened.store().records(), opened.sweep().objectives))
    else:
        best = opened.summary().best
        trials = () if best is None else (best,)
    if not trials:
        infeasible = opened.summary().infeasible
        why = f": {infeasible} trials violate a constraint" if infeasible else ""
        raise StudyError(f"study '{name}' has no best trial yet{why}; see 'hpoctl trials {name}'")
    return Best(study=name, trials=trials, values=metrics)


def _complete(opened: OpenRun, number: int) -> TrialRecord:
    record = _record(opened, number)
    if record.state is not TrialState.COMPLETE:
        raise StudyError(f"trial {number} is {record.state}: only a complete one has all values")
    return record


def read_log(study: str, number: int, *, follow: bool) -> Iterator[str]:
    """The log of a trial, piece by piece; with `follow` from its start until it has ended.

    One whose worker is gone has not: it waits for its next attempt, whose log is the same.
    """
    opened = open_run(study)
    path = _log_file(opened, number)
    if not path.exists() and follow and _is_open(opened, number):
        log.warning("trial %d has not started: waiting for it", number)
        while not path.exists() and _is_open(opened, number):
            time.sleep(_WAITING_POLL_S)
    if not path.exists():
        raise StudyError(f"trial {number} of '{opened.run.study}' has not started: no {path}")
    with path.open(encoding="utf-8", errors="replace") as printed:
        while True:
            running = {worker.trial for worker in opened.summary().workers} if follow else set()
            while piece := printed.read(65_536):
                yield piece
            if number not in running and not (follow and _is_open(opened, number)):
                return
            time.sleep(_POLL_S if number in running else _WAITING_POLL_S)


def _log_file(opened: OpenRun, number: int) -> Path:
    own = opened.run_dir.trial(number) / "log.txt"
    return own if own.exists() else opened.run_dir.trial(_root(opened, number)) / "log.txt"


def _is_open(opened: OpenRun, number: int) -> bool:
    """Whether a trial waits or runs."""
    states = {record.number: record.state for record in opened.store().records()}
    return states.get(number) in (TrialState.WAITING, TrialState.RUNNING)


def _root(opened: OpenRun, number: int) -> int:
    """The trial in whose folder this one runs: the one that it repeats, else itself."""
    return _record(opened, number).root


def _record(opened: OpenRun, number: int) -> TrialRecord:
    for record in opened.store().records():
        if record.number == number:
            return record
    raise StudyError(f"there is no trial {number}: 'hpoctl trials' lists them")


def write_report(study: str, out: Path | None) -> Report:
    """Writes tables, plot and one folder a trial; into the run directory unless `out` is given."""
    from hpoctl import report
    from hpoctl.control.about import about_study

    opened = open_run(study)
    look, charges = opened.look(), _charges(opened)
    lines = status.ledger(opened.summary().workers, look, charges or (), time.time())
    records = opened.store().records()
    return report.write(
        records,
        opened.sweep().objectives,
        report_dir=out or opened.run_dir.report,
        results_dir=out / "trial_results" if out else opened.run_dir.results,
        trials_dir=opened.run_dir.trials,
        ledger=lines,
        about=about_study(opened, records),
    )
