"""Which trial is the best one, and its parameters as a file that can be fed back.

Pure: knows no folder and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpoctl.config import dump
from hpoctl.record import TrialRecord, TrialState
from hpoctl.space import nest
from hpoctl.sweep import Metric


def best(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> TrialRecord | None:
    """The best COMPLETE trial that violates no constraint, or None; ties go to the first.

    With several metrics it is the first of the `compromises`.
    """
    return next(iter(compromises(records, metrics)), None)


def compromises(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[TrialRecord]:
    """The front, those trials first that are the best compromises.

    They are nearest to the point where every metric would be as good as it is anywhere on the
    front, each scaled to the front's width. What has an infinite value comes last.
    """
    on_front = front(records, metrics)
    losses = {record.number: _losses(record, metrics) for record in on_front}
    finite = [r for r in on_front if all(map(math.isfinite, losses[r.number]))]
    columns = [*zip(*(losses[record.number] for record in finite), strict=True)]
    scales = [(min(column), max(column) - min(column)) for column in columns]

    def distance(record: TrialRecord) -> float:
        pairs = zip(losses[record.number], scales, strict=True)
        return math.hypot(*((loss - low) / width if width else 0.0 for loss, (low, width) in pairs))

    finite.sort(key=lambda record: (distance(record), record.number))
    return [*finite, *(record for record in on_front if record not in finite)]


def front(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[TrialRecord]:
    """The COMPLETE trials that violate no constraint and that no other one beats, by number.

    One beats another that is nowhere worse and somewhere better. NaN is on no front; an infinite
    value is compared as it stands, as Optuna does. Of one metric, it is the first best trial.
    """
    ranked = sorted(
        (_losses(record, metrics), record.number, record)
        for record in records
        if record.state is TrialState.COMPLETE and record.values and record.feasible
        if len(record.values) >= len(metrics) and not any(map(math.isnan, record.values))
    )
    if len(metrics) == 1:
        return [ranked[0][2]] if ranked else []
    found: list[tuple[tuple[float, ...], TrialRecord]] = []
    for losses, _, record in ranked:  # whoever beats one stands before it
        if not any(_beats(other, losses) for other, _ in found):
            found.append((losses, record))
    return sorted((record for _, record in found), key=lambda record: record.number)


def _losses(record: TrialRecord, metrics: Sequence[Metric]) -> tuple[float, ...]:
    """A trial's values, less is better."""
    values = zip(metrics, record.values or (), strict=False)
    return tuple(value if metric.goal == "minimize" else -value for metric, value in values)


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def ranked(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], place: int = 0
) -> list[TrialRecord]:
    """The COMPLETE trials by the metric in this place, the best one first."""
    entries = [
        (_losses(record, metrics)[place], record.number, record)
        for record in records
        if record.state is TrialState.COMPLETE and record.values
        if not math.isnan(record.values[place])
    ]
    return [record for *_, record in sorted(entries, key=lambda entry: entry[:2])]


def best_config(record: TrialRecord, metrics: Sequence[Metric]) -> str:
    """YAML of the trial's parameters, nested as the search space, below a line that says whose."""
    values = zip(metrics, record.values or (), strict=False)
    scores = ", ".join(f"{metric.name} {float(value)!r}" for metric, value in values)
    return f"# trial {record.number}: {scores}\n{dump(nest(record.params))}"
