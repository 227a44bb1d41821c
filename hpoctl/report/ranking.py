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
    """The COMPLETE trial with the best first metric, or None; NaN never wins, ties go to the first.

    An infinite value is compared as it stands, as Optuna does.
    """
    return next(iter(ranked(records, metrics)), None)


def ranked(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> list[TrialRecord]:
    """The COMPLETE trials by their first metric, the best one first."""
    sign = 1 if metrics[0].goal == "minimize" else -1
    entries = [
        (sign * record.values[0], record.number, record)
        for record in records
        if record.state is TrialState.COMPLETE and record.values
        if not math.isnan(record.values[0])
    ]
    return [record for *_, record in sorted(entries, key=lambda entry: entry[:2])]


def best_config(record: TrialRecord, metrics: Sequence[Metric]) -> str:
    """YAML of the trial's parameters, nested as the search space, below a line that says whose."""
    values = zip(metrics, record.values or (), strict=False)
    scores = ", ".join(f"{metric.name} {float(value)!r}" for metric, value in values)
    return f"# trial {record.number}: {scores}\n{dump(nest(record.params))}"
