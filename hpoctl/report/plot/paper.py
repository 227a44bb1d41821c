"""What the plots are drawn on: size, style, colours; knows matplotlib, but not pyplot's state.

Matplotlib is loaded when something is drawn: it takes a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from hpoctl.sweep import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito (2008), told apart by colour-blind readers; each kind has its own shape as well.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#7F7F7F", "#1A1A1A"
_STYLE: dict[str, object] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4D4D4D",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
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


def png(panels: int, draw: Callable[[Figure], None]) -> bytes:
    """What `draw` draws on a figure with room for so many panels below each other."""
    with _silent_import():
        from matplotlib import style
        from matplotlib.figure import Figure
    # "default" first: a user's matplotlibrc must not ask for LaTeX here.
    with style.context(["default", _STYLE]):
        height = _REST_IN + _PANEL_IN * panels
        figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, layout="constrained")
        draw(figure)
        content = BytesIO()
        figure.savefig(content, format="png")
    return content.getvalue()


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


def label_of(metric: Metric) -> str:
    """Name and goal on one line, in characters that the font has, none of them markup."""
    name = ascii(metric.name)[1:-1]
    name = name if len(name) <= 28 else name[:27] + "…"
    return f"{name} ({metric.goal})"
