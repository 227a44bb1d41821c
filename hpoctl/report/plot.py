"""The optimisation plot: each finished trial's value against its number, and the best so far.

The only module that knows matplotlib, which is imported when a plot is drawn. `panel` decides
what is shown, as plain numbers; the rest puts it on paper, without pyplot and its state.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from hpoctl.record import TrialRecord, TrialState
from hpoctl.sweep import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Points = tuple[tuple[int, float], ...]  # trial number, value

# Okabe and Ito (2008), told apart by colour-blind readers; each kind has its own shape as well.
_BLUE, _ORANGE, _GREY, _INK = "#0072B2", "#D55E00", "#7F7F7F", "#1A1A1A"
_STYLE: dict[str, object] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4D4D4D",
    "axes.linewidth": 0.8,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.color": "#4D4D4D",
    "ytick.color": "#4D4D4D",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.4,
}
_WIDTH_IN, _PANEL_IN, _REST_IN, _DPI = 7.0, 2.9, 0.3, 160
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
        if math.isfinite(drawn := _drawn(value)):
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


def _drawn(value: float) -> float:
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


def optimization_plot(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> bytes:
    """PNG with one panel a metric: the values of finished trials by number, and the best so far."""
    panels = [panel(records, metric, index) for index, metric in enumerate(metrics)]
    with _silent_import():
        from matplotlib import style
        from matplotlib.figure import Figure
    # "default" first: a user's matplotlibrc must not ask for LaTeX here.
    with style.context(["default", _STYLE]):
        height = _REST_IN + _PANEL_IN * len(panels)
        figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, layout="constrained")
        _draw(figure, panels)
        png = BytesIO()
        figure.savefig(png, format="png")
    return png.getvalue()


def pareto_plot(
    records: Sequence[TrialRecord], front: Sequence[TrialRecord], metrics: Sequence[Metric]
) -> bytes:
    """PNG with a panel for each further metric against the first; the front's trials stand out."""
    with _silent_import():
        from matplotlib import style
        from matplotlib.figure import Figure
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    groups = (
        ("infeasible", [r for r in complete if not r.feasible], "none", _ORANGE, 4.0),
        ("complete", [r for r in complete if r.feasible], _BLUE, "none", 4.0),
        ("front", list(front), _INK, "white", 7.0),
    )
    with style.context(["default", _STYLE]):
        height = _REST_IN + _PANEL_IN * (len(metrics) - 1)
        figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, layout="constrained")
        axes = figure.subplots(len(metrics) - 1, 1, squeeze=False)[:, 0]
        for index, ax in enumerate(axes, start=1):
            for label, group, face, edge, size in groups:
                _draw_pairs(ax, label, _pairs(group, index), face, edge, size)
            ax.set_xlabel(_label_of(metrics[0]), parse_math=False)
            ax.set_ylabel(_label_of(metrics[index]), parse_math=False)
        handles, labels = axes[0].get_legend_handles_labels()
        if labels:
            axes[0].legend(
                handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(labels)
            )
        png = BytesIO()
        figure.savefig(png, format="png")
    return png.getvalue()


def _pairs(group: Sequence[TrialRecord], index: int) -> list[tuple[float, float]]:
    """The first value and the one at `index`, where both can be drawn."""
    values = [(r.values[0], r.values[index]) for r in group if r.values and index < len(r.values)]
    drawn = [(_drawn(x), _drawn(y)) for x, y in values]
    return [pair for pair in drawn if not any(map(math.isnan, pair))]


def _draw_pairs(
    ax: Axes, label: str, pairs: Sequence[tuple[float, float]], face: str, edge: str, size: float
) -> None:
    if pairs:
        xs, ys = zip(*pairs, strict=True)
        ax.plot(
            xs,
            ys,
            label=label,
            linestyle="none",
            marker="o",
            markersize=size,
            markerfacecolor=face,
            markeredgecolor=edge,
        )


def _label_of(metric: Metric) -> str:
    """Name and goal on one line, in characters that the font has, none of them markup."""
    name = ascii(metric.name)[1:-1]
    name = name if len(name) <= 28 else name[:27] + "…"
    return f"{name} ({metric.goal})"


@contextmanager
def _silent_import() -> Iterator[None]:
    """Import matplotlib without its advice on stderr.

    Where the home directory cannot be written (on some compute nodes) it makes a temporary folder
    for its font list and removes it at exit, but warns of that at length.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _draw(figure: Figure, panels: Sequence[Panel]) -> None:
    lines: dict[str, Line2D] = {}
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, shown in zip(axes, panels, strict=True):
        ax.set_ylabel(_label_of(shown.metric), parse_math=False)
        if not shown.values:
            _draw_nothing(ax, "no finished trial yet" if shown.last < 0 else "no value to draw")
        else:
            _set_scale(ax, shown)
        lines |= _draw_values(ax, shown) | _draw_edges(ax, shown) | _draw_best(ax, shown)
    _set_numbers(axes[-1], max(shown.last for shown in panels))
    if lines:
        _draw_legend(axes[0], lines)


def _draw_legend(ax: Axes, lines: dict[str, Line2D]) -> None:
    """One legend for all panels, above the first, on the line that names its best value."""
    from matplotlib.lines import Line2D

    legend = ax.legend(
        list(lines.values()),
        list(lines),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.1,
        borderpad=0.3,
        ncols=len(lines),
    )
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):
            handle.set_markersize(9.0 if handle.get_marker() == "*" else 5.5)


def _draw_nothing(ax: Axes, why: str) -> None:
    ax.set_yticks([])
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color=_GREY)


def _set_numbers(ax: Axes, last: int) -> None:
    """The axis that all panels share: whole trial numbers up to the last one."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("trial number")
    if last < 0:
        ax.set_xticks([])
        return
    ax.set_xlim(-0.5 - 0.01 * last, last + 0.5 + 0.01 * last)
    ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _set_scale(ax: Axes, shown: Panel) -> None:
    """The axis of values, with room at the lower edge for the trials that failed."""
    low, high = min(shown.values), max(shown.values)
    if shown.is_log:
        ax.set_yscale("log")
        pad = (high / low) ** 0.06
        ax.set_ylim(low / pad**1.6, high * pad)
        return
    pad = 0.06 * (high - low)
    if pad < 1e-9 * max(abs(low), abs(high)) or pad == 0:  # as good as equal
        pad = 0.1 * max(abs(low), abs(high)) or 1.0
    ax.set_ylim(low - 1.6 * pad, high + pad)


def _marker_size(shown: Panel) -> float:
    """Points across: large for a handful of trials, small where thousands would hide each other."""
    return min(max(60.0 / math.sqrt(len(shown.values) + 1), 1.5), 5.5)


def _draw_values(ax: Axes, shown: Panel) -> dict[str, Line2D]:
    size = _marker_size(shown)
    artists: dict[str, Line2D] = {}
    for label, points, face, edge in (
        ("complete", shown.complete, _BLUE, "white" if size > 4 else "none"),
        ("pruned", shown.pruned, "none", _GREY),
        ("infeasible", shown.infeasible, "none", _ORANGE),
    ):
        if points:
            numbers, values = zip(*points, strict=True)
            (artists[label],) = ax.plot(
                numbers,
                values,
                linestyle="none",
                marker="o",
                markersize=size,
                markerfacecolor=face,
                markeredgecolor=edge,
                markeredgewidth=min(0.9, size / 5),
            )
    return artists


def _draw_edges(ax: Axes, shown: Panel) -> dict[str, Line2D]:
    """Marks at the edges for trials without a value that could be drawn."""
    artists: dict[str, Line2D] = {}
    size = max(_marker_size(shown), 3.0)
    for label, numbers, height, marker, colour in (
        ("failed", shown.failed, 0.0, "x", _ORANGE),
        ("off scale", shown.above, 0.985, "^", _INK),
        ("off scale", shown.below, 0.0, "v", _INK),
    ):
        if numbers:
            (artists[label],) = ax.plot(
                numbers,
                [height] * len(numbers),
                linestyle="none",
                marker=marker,
                markersize=size,
                color=colour,
                transform=ax.get_xaxis_transform(),
                clip_on=False,
                zorder=4,
            )
    return artists


def _draw_best(ax: Axes, shown: Panel) -> dict[str, Line2D]:
    """The best value so far as steps, with a star on the best trial and its value as the title."""
    if not shown.best:
        return {}
    numbers, values = zip(*shown.best, strict=True)
    heights = [_drawn(value) for value in values]  # NaN leaves a gap
    (line,) = ax.plot(
        [*numbers, shown.last],
        [*heights, heights[-1]],
        drawstyle="steps-post",
        color=_INK,
        linewidth=1.2,
        marker="*",
        markevery=[len(numbers) - 1],
        markersize=11,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,
    )
    ax.set_title(f"best: {values[-1]:.5g} (trial {numbers[-1]})", loc="right", parse_math=False)
    return {"best so far": line}
