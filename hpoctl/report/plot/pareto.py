"""The Pareto plot: each further metric against the first; the trials of the front stand out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.plot.panels import drawable
from hpoctl.report.plot.paper import BLUE, INK, ORANGE, label_of, png
from hpoctl.sweep import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto_plot(
    records: Sequence[TrialRecord], front: Sequence[TrialRecord], metrics: Sequence[Metric]
) -> bytes:
    """PNG with a panel for each further metric against the first; the front's trials stand out."""
    return png(len(metrics) - 1, lambda figure: _draw(figure, records, front, metrics))


def _draw(
    figure: Figure,
    records: Sequence[TrialRecord],
    front: Sequence[TrialRecord],
    metrics: Sequence[Metric],
) -> None:
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    groups = (
        ("infeasible", [r for r in complete if not r.feasible], "none", ORANGE, 4.0),
        ("complete", [r for r in complete if r.feasible], BLUE, "none", 4.0),
        ("front", list(front), INK, "white", 7.0),
    )
    axes = figure.subplots(len(metrics) - 1, 1, squeeze=False)[:, 0]
    for index, ax in enumerate(axes, start=1):
        for label, group, face, edge, size in groups:
            _draw_pairs(ax, label, _pairs(group, index), face, edge, size)
        ax.set_xlabel(label_of(metrics[0]), parse_math=False)
        ax.set_ylabel(label_of(metrics[index]), parse_math=False)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        axes[0].legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(labels)
        )


def _pairs(group: Sequence[TrialRecord], index: int) -> list[tuple[float, float]]:
    """The first value and the one at `index`, where both can be drawn."""
    values = [(r.values[0], r.values[index]) for r in group if r.values and index < len(r.values)]
    drawn = [(drawable(x), drawable(y)) for x, y in values]
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
