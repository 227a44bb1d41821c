"""What a study says: status, trials, the best one, logs, the report. Changes nothing in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl import failures, status
from hpoctl.control.opened import OpenRun, open_run
from hpoctl.errors import BatchSystemError, StudyError
from hpoctl.failures import FailureGroup
from hpoctl.record import Stop, TaskRecord, TrialRecord
from hpoctl.status import Status

if TYPE_CHECKING:
    from hpoctl.report import Report

_POLL_S = 0.5


def read_status(study: str) -> Status:
    """The study at a glance; changes nothing."""
    opened = open_run(study)
    summary = opened.summary()
    tasks = _tasks(opened)
    workers = status.join_workers(summary.workers, tasks)
    return Status(
        run=opened.run,
        run_dir=opened.run_dir.path,
        gist=opened.gist,
        storage=str(opened.location),
        summary=summary,
        workers=workers,
        gpu_hours=status.gpu_hours(summary.workers, tasks, time.time()),
        eta_s=status.eta_s(summary, workers),
    )


def _tasks(opened: OpenRun) -> tuple[TaskRecord, ...]:
    """What the batch system says; nothing where it does not answer, as the study still does."""
    try:
        return opened.tasks()
    except BatchSystemError:
        return ()


def read_trials(study: str) -> tuple[list[TrialRecord], Sequence[str]]:
    """All trials of a study by number, and the names of its metrics."""
    opened = open_run(study)
    return opened.store().records(), opened.gist.metrics


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


def read_best(study: str) -> TrialRecord:
    """The best complete trial. Raises StudyError while there is none."""
    opened = open_run(study)
    best = opened.summary().best
    if best is None:
        raise StudyError(f"study '{opened.run.study}' has no single best trial yet")
    return best


def read_log(study: str, number: int, *, follow: bool) -> Iterator[str]:
    """The log of a trial, piece by piece; with `follow` until the trial has ended."""
    opened = open_run(study)
    path = opened.run_dir.trial(number) / "log.txt"
    if not path.exists():
        raise StudyError(f"trial {number} of '{opened.run.study}' has not started: no {path}")
    with path.open(encoding="utf-8", errors="replace") as log:
        while True:
            running = {worker.trial for worker in opened.summary().workers} if follow else set()
            while piece := log.read(65_536):
                yield piece
            if number not in running:
                return
            time.sleep(_POLL_S)


def write_report(study: str, out: Path | None) -> Report:
    """Writes tables, plot and one folder a trial; into the run directory unless `out` is given."""
    from hpoctl import report

    opened = open_run(study)
    return report.write(
        opened.store().records(),
        opened.sweep().metrics,
        report_dir=out or opened.run_dir.report,
        results_dir=out / "trial_results" if out else opened.run_dir.results,
        trials_dir=opened.run_dir.trials,
    )
