"""What the plot of one metric shows, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpoctl.record import TrialRecord, TrialState
from hpoctl.sweep import Metric

Points = tuple[tuple[int, float], ...]  # trial number, value

_HUGE, _TINY = 1e150, 1e-150  # beyond these the arithmetic of axes and ticks overflows
_DECADES = 100.0  # values that differ by more than this factor are drawn on a logarithmic axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What the plot of one metric shows."""

    metric: Metric
    complete: Points  # of values that can be drawn, as `pruned` and `infeasible`
    pruned: Points
    infeasible: Points
    failed: tuple[int, ...]
    above: tuple[int, ...]  # off scale: infinite, huge or not a number
    below: tuple[int, ...]
    best: Points  # the best value so far wherever it changed, infinite ones too
    last: int  # the number of the last trial that is shown

    @property
    def values(self) -> list[float]:
        """All values that are drawn."""
        return [value for _, value in (*self.complete, *self.infeasible, *self.pruned)]

    @property
    def is_log(self) -> bool:
        """Whether the values are positive and span over two decades."""
        values = self.values
        return bool(values) and min(values) > 0 and max(values) / min(values) > _DECADES


def panel(records: Sequence[TrialRecord], metric: Metric, index: int) -> Panel:
    """What to show of the metric at `index` of the trials' values."""
    finished = [
        (record.number, float(record.values[index]), record.state if record.feasible else None)
        for record in sorted(records, key=lambda record: record.number)
        if record.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if record.values is not None and index < len(record.values)
    ]
    of: dict[TrialState | None, list[tuple[int, float]]] = {s: [] for s in (None, *TrialState)}
    edges: dict[bool, list[int]] = {True: [], False: []}
    for number, value, state in finished:
        if math.isfinite(drawn := drawable(value)):
            of[state].append((number, drawn))
        else:  # what is not a number goes to the bad edge
            above = metric.goal == "minimize" if math.isnan(value) else value > 0
            edges[above].append(number)
    failed = [record.number for record in records if record.state is TrialState.FAILED]
    return Panel(
        metric=metric,
        complete=tuple(of[TrialState.COMPLETE]),
        pruned=tuple(of[TrialState.PRUNED]),
        infeasible=tuple(of[None]),
        failed=tuple(sorted(failed)),
        above=tuple(edges[True]),
        below=tuple(edges[False]),
        best=_improvements(
            [(n, value) for n, value, state in finished if state is TrialState.COMPLETE],
            metric.goal,
        ),
        last=max([number for number, _, _ in finished] + failed, default=-1),
    )


def drawable(value: float) -> float:
    """The value as it can be drawn; NaN where it cannot."""
    if not abs(value) <= _HUGE:
        return math.nan
    return 0.0 if abs(value) < _TINY else value


def _improvements(points: Sequence[tuple[int, float]], goal: str) -> Points:
    sign = 1 if goal == "minimize" else -1
    steps: list[tuple[int, float]] = []
    for number, value in points:
        if math.isnan(value):
            continue
        if not steps or sign * value < sign * steps[-1][1]:
            steps.append((number, value))
    return tuple(steps)
