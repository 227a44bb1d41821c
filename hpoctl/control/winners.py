"""The trials of a search that something is made of: its best ones, or those that were named."""

from __future__ import annotations

from collections.abc import Sequence

from hpoctl.control.opened import OpenRun
from hpoctl.errors import ConfigError, StudyError
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.ranking import compromises, front, ranked

COMPROMISE = "compromise"  # in place of a metric: the report's rule, see `compromises`


def winners(opened: OpenRun, most: int, by: str | None = None) -> list[TrialRecord]:
    """The best complete trials that violate no constraint, no point twice.

    With several metrics they are the front's, those first that are best `by` one of the metrics.
    Raises ConfigError where that is not said, StudyError if there is no trial.
    """
    found: list[TrialRecord] = []
    for record in _ordered(opened, by):
        if len(found) < most and record.params not in [known.params for known in found]:
            found.append(record)
    if not found:
        raise StudyError(f"study '{opened.run.study}' has no complete trial yet")
    return found


def chosen(opened: OpenRun, numbers: Sequence[int], by: str | None = None) -> list[TrialRecord]:
    """These trials, in the order of their values. Raises StudyError for one that has none."""
    records = {record.number: record for record in opened.store().records()}
    for number in numbers:
        if number not in records:
            raise StudyError(f"there is no trial {number}: 'hpoctl trials' lists them")
        if records[number].state is not TrialState.COMPLETE:
            raise StudyError(f"trial {number} is {records[number].state}, and has no value")
    return ranked(
        [records[number] for number in numbers], opened.sweep().objectives, metric_place(opened, by)
    )


def metric_place(opened: OpenRun, by: str | None) -> int:
    """Which of a trial's values counts: of the metric that was named, else of the first one.

    Raises ConfigError where the study has no metric of this name.
    """
    names = [metric.name for metric in opened.sweep().objectives]
    if by is None or by == COMPROMISE:
        return 0
    if by not in names:
        known = ", ".join([*names, COMPROMISE] if len(names) > 1 else names)
        raise ConfigError(f"--by {by}: study '{opened.run.study}' compares by {known}")
    return names.index(by)


def _ordered(opened: OpenRun, by: str | None) -> list[TrialRecord]:
    metrics, which = opened.sweep().objectives, metric_place(opened, by)
    records = [record for record in opened.store().records() if record.feasible]
    if len(metrics) == 1:
        return ranked(records, metrics)
    if by is None:
        name = opened.run.study
        raise ConfigError(
            f"study '{name}' has {len(metrics)} metrics, and no single order: give --by"
            f" {metrics[0].name} (the best of the front in it) or --by {COMPROMISE}, or name trials"
            f" that 'hpoctl best {name}' shows"
        )
    if by == COMPROMISE:
        return compromises(records, metrics)
    return ranked(front(records, metrics), metrics, which)
