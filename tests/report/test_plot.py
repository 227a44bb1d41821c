from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.plot.optimization import optimization_plot
from hpoctl.report.plot.panels import panel
from hpoctl.sweep import Metric

LOSS = Metric(name="eval_loss")
ACCURACY = Metric(name="accuracy", goal="maximize")
COMPLETE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED


def trial(number: int, state: TrialState, *values: float) -> TrialRecord:
    return TrialRecord(number=number, state=state, values=values or None)


def colours(png: bytes) -> set[tuple[int, ...]]:
    """The colours of a PNG that covers a reasonable area; fails where it is no whole PNG."""
    with Image.open(BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 800
        assert image.height > 300
        pixels = image.convert("RGB").tobytes()
    return set(zip(pixels[0::3], pixels[1::3], pixels[2::3], strict=True))


BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def sweep_of(trials: int) -> list[TrialRecord]:
    rng = random.Random(0)
    states = rng.choices([COMPLETE, PRUNED, FAILED], [7, 2, 1], k=trials)
    return [
        trial(n, state) if state is FAILED else trial(n, state, 3 + rng.random())
        for n, state in enumerate(states)
    ]


def test_complete_and_failed_trials_are_in_the_picture() -> None:
    seen = colours(optimization_plot(sweep_of(60), [LOSS]))
    assert {BLUE, ORANGE} <= seen


def test_no_finished_trial_says_so() -> None:
    waiting = [TrialRecord(number=0, state=TrialState.WAITING)]
    empty = optimization_plot([], [LOSS])
    assert optimization_plot(waiting, [LOSS]) == empty
    assert len(colours(empty)) > 10  # the greys of its letters
    assert BLUE not in colours(empty)


@pytest.mark.parametrize("state", [COMPLETE, PRUNED, FAILED])
def test_one_trial_is_enough(state: TrialState) -> None:
    values = () if state is FAILED else (3.0,)
    png = optimization_plot([trial(0, state, *values)], [LOSS])
    assert colours(png)
    assert png != optimization_plot([], [LOSS])


def test_ten_thousand_trials_make_a_small_picture() -> None:
    png = optimization_plot(sweep_of(10_000), [LOSS])
    assert BLUE in colours(png)
    assert len(png) < 1_000_000


def test_every_metric_has_a_panel() -> None:
    records = [trial(n, COMPLETE, 3.0 - n / 10, n / 10) for n in range(5)]
    heights = []
    for metrics in ([LOSS], [LOSS, ACCURACY]):
        with Image.open(BytesIO(optimization_plot(records, metrics))) as image:
            heights.append(image.height)
    assert heights[1] > 1.7 * heights[0]


def test_a_panel_without_trials_does_not_empty_its_neighbour() -> None:
    only_first = [trial(n, COMPLETE, 3.0 - n / 10) for n in range(5)]
    assert BLUE in colours(optimization_plot(only_first, [LOSS, ACCURACY]))


@pytest.mark.parametrize(
    "name", ["$", "loss_$x$", r"\frac{1}{", "a_b^c", "中文", "a" * 300, "new\nline", "%s {x}"]
)
def test_a_metric_name_is_never_markup(name: str) -> None:
    metric = Metric.model_construct(name=name, goal="minimize")
    assert BLUE in colours(optimization_plot(sweep_of(20), [metric]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([COMPLETE, PRUNED]), st.floats()), max_size=6),
    st.sampled_from([LOSS, ACCURACY]),
)
def test_any_values_can_be_drawn(finished: list[tuple[TrialState, float]], metric: Metric) -> None:
    records = [trial(n, state, value) for n, (state, value) in enumerate(finished)]
    assert colours(optimization_plot(records, [metric]))


@pytest.mark.parametrize(
    "values",
    [
        (1e308, -1e308),
        (5e-324, 1e-300),
        (1e149, 1e-149),
        (1e16, 1e16 + 2),
        (0.0, 0.0),
        (math.inf, 3.0),
        (-math.inf, math.nan),
        (1e-149, 2e-149),
    ],
)
def test_extreme_values_can_be_drawn(values: tuple[float, ...]) -> None:
    records = [trial(n, COMPLETE, value) for n, value in enumerate(values)]
    assert colours(optimization_plot(records, [LOSS]))


def test_the_same_trials_make_the_same_picture_in_any_order() -> None:
    records = sweep_of(30)
    assert optimization_plot(records[::-1], [LOSS]) == optimization_plot(records, [LOSS])


def test_the_best_so_far_follows_the_goal_and_skips_pruned_trials() -> None:
    values = [(COMPLETE, 3.0), (PRUNED, 0.1), (COMPLETE, 4.0), (COMPLETE, 2.0), (COMPLETE, 2.0)]
    records = [trial(n, state, value) for n, (state, value) in enumerate(values)]
    assert panel(records, LOSS, 0).best == ((0, 3.0), (3, 2.0))
    assert panel(records, ACCURACY, 0).best == ((0, 3.0), (2, 4.0))


def test_the_best_so_far_is_never_nan_but_may_be_infinite() -> None:
    values = (math.nan, math.inf, 3.0, math.nan, -math.inf)
    records = [trial(n, COMPLETE, value) for n, value in enumerate(values)]
    assert panel(records, LOSS, 0).best == ((1, math.inf), (2, 3.0), (4, -math.inf))


def test_what_cannot_be_drawn_stands_at_an_edge() -> None:
    values = (math.inf, -math.inf, math.nan, 1.0)
    records = [trial(n, COMPLETE, value) for n, value in enumerate(values)]
    shown = panel([*records, trial(4, FAILED)], LOSS, 0)
    assert (shown.above, shown.below, shown.failed) == ((0, 2), (1,), (4,))
    assert shown.complete == ((3, 1.0),)
    assert panel(records, ACCURACY, 0).below == (1, 2)


@pytest.mark.parametrize(
    ("values", "is_log"),
    [((1.0, 101.0), True), ((1.0, 100.0), False), ((0.0, 1e6), False), ((-1.0, 1e6), False)],
)
def test_the_axis_is_logarithmic_over_two_decades_of_positive_values(
    values: tuple[float, ...], is_log: bool
) -> None:
    records = [trial(n, PRUNED, value) for n, value in enumerate(values)]
    assert panel(records, LOSS, 0).is_log is is_log


def test_trials_that_have_not_finished_are_not_shown() -> None:
    running = TrialRecord(number=9, state=TrialState.RUNNING, values=(1.0,), steps={1: 1.0})
    assert panel([running], LOSS, 0).last == -1


def test_a_style_of_the_user_changes_nothing_and_is_left_as_it_was() -> None:
    import matplotlib

    before = optimization_plot(sweep_of(5), [LOSS])
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30.0}):
        assert optimization_plot(sweep_of(5), [LOSS]) == before
        assert matplotlib.rcParams["font.size"] == 30.0


DRAW = """
import logging, sys, threading
from hpoctl.report.plot.optimization import optimization_plot
from hpoctl.sweep import Metric
assert "matplotlib" not in sys.modules
assert optimization_plot([], [Metric(name="m")])
assert "matplotlib.pyplot" not in sys.modules
assert threading.active_count() == 1
assert logging.getLogger("matplotlib").level == logging.NOTSET
"""


def test_drawing_leaves_nothing_behind_and_says_nothing_even_without_a_home(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.write_text("a file, so that even root can make no folder in it")
    removed = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    kept = {key: value for key, value in os.environ.items() if key not in removed}
    environ = {**kept, "HOME": str(home), "TMPDIR": str(tmp_path)}
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRAW],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
