"""The optimisation plot: each finished trial's value against its number, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpoctl.record import TrialRecord
from hpoctl.report.plot.panels import Panel, drawable, panel
from hpoctl.report.plot.paper import BLUE, GREY, INK, ORANGE, label_of, png
from hpoctl.sweep import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def optimization_plot(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> bytes:
    """PNG with one panel a metric: the values of finished trials by number, and the best so far."""
    panels = [panel(records, metric, index) for index, metric in enumerate(metrics)]
    return png(len(panels), lambda figure: _draw(figure, panels))


def _draw(figure: Figure, panels: Sequence[Panel]) -> None:
    lines: dict[str, Line2D] = {}
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, shown in zip(axes, panels, strict=True):
        ax.set_ylabel(label_of(shown.metric), parse_math=False)
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
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color=GREY)


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
        ("complete", shown.complete, BLUE, "white" if size > 4 else "none"),
        ("pruned", shown.pruned, "none", GREY),
        ("infeasible", shown.infeasible, "none", ORANGE),
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
        ("failed", shown.failed, 0.0, "x", ORANGE),
        ("off scale", shown.above, 0.985, "^", INK),
        ("off scale", shown.below, 0.0, "v", INK),
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
    heights = [drawable(value) for value in values]  # NaN leaves a gap
    (line,) = ax.plot(
        [*numbers, shown.last],
        [*heights, heights[-1]],
        drawstyle="steps-post",
        color=INK,
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
