"""The search space: grids are complete and exact, draws stay inside, names nest and flatten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.space import Categorical, Distribution, Float, Int, Params, SearchSpace, Value, nest

NUMBERS = st.floats(-1e9, 1e9)
POSITIVE = st.floats(1e-12, 1e12)
SEEDS = st.integers(0, 2**31 - 1)
NAMES = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()
)


def space(**parameters: Distribution) -> SearchSpace:
    return SearchSpace(parameters)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """What `nest` undoes."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def test_a_grid_of_four_parameters_with_three_values_has_81_different_cells() -> None:
    three = Categorical(choices=(1, 2, 3))
    whole = space(a=three, b=three, c=Int(low=0, high=2), d=Float(low=0, high=1, step=0.5))
    cells = [tuple(cell.values()) for cell in whole.grid()]
    assert whole.size() == len(cells) == len(set(cells)) == 81


def test_the_last_parameter_of_a_grid_turns_fastest() -> None:
    whole = space(a=Categorical(choices=("x", "y")), b=Int(low=1, high=2))
    assert [dict(cell) for cell in whole.grid()] == [
        {"a": "x", "b": 1},
        {"a": "x", "b": 2},
        {"a": "y", "b": 1},
        {"a": "y", "b": 2},
    ]


def test_float_steps_carry_no_rounding_error() -> None:
    assert Float(low=0, high=1, step=0.1).grid() == (
        0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    )  # fmt: skip
    assert Float(low=1e-6, high=5e-6, step=1e-6).grid() == (1e-6, 2e-6, 3e-6, 4e-6, 5e-6)


def test_a_grid_of_steps_ends_at_the_last_step_inside() -> None:
    assert Float(low=0, high=1, step=0.3).grid() == (0.0, 0.3, 0.6, 0.9)
    assert Int(low=1, high=8, step=3).grid() == (1, 4, 7)


@given(low=st.integers(-1000, 1000), cells=st.integers(1, 200), digits=st.integers(0, 6))
def test_every_value_of_a_float_grid_is_the_nearest_number_to_its_decimal(
    low: int, cells: int, digits: int
) -> None:
    step, start = float(f"1e-{digits}"), float(f"{low}e-{digits}")
    grid = Float(low=start, high=float(f"{low + cells}e-{digits}"), step=step).grid()
    assert grid == tuple(float(f"{low + i}e-{digits}") for i in range(cells + 1))


def test_a_range_of_one_number_has_a_grid_of_one() -> None:
    assert Float(low=0.5, high=0.5).grid() == (0.5,)


def test_a_continuous_range_has_no_grid_and_no_size() -> None:
    whole = space(a=Float(low=0, high=1), b=Int(low=1, high=3))
    assert whole.size() is None
    with pytest.raises(ValueError, match="continuous range has no grid"):
        list(whole.grid())


@given(st.tuples(NUMBERS, NUMBERS), SEEDS)
def test_a_float_draw_stays_inside(ends: tuple[float, float], seed: int) -> None:
    distribution = Float(low=min(ends), high=max(ends))
    assert distribution.at(Random(seed).random()) in distribution


@given(st.tuples(POSITIVE, POSITIVE), SEEDS)
def test_a_log_draw_stays_inside(ends: tuple[float, float], seed: int) -> None:
    distribution = Float(low=min(ends), high=max(ends), log=True)
    assert distribution.at(Random(seed).random()) in distribution


@given(st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), SEEDS, st.booleans())
def test_an_int_draw_stays_inside(ends: tuple[int, int], seed: int, log: bool) -> None:
    distribution = Int(low=min(ends), high=max(ends), log=log)
    assert distribution.at(Random(seed).random()) in distribution


@given(st.integers(-50, 50), st.integers(0, 50), st.integers(1, 9), SEEDS)
def test_a_draw_with_steps_is_a_cell_of_the_grid(
    low: int, width: int, step: int, seed: int
) -> None:
    whole = Int(low=low, high=low + width, step=step)
    assert whole.at(Random(seed).random()) in whole.grid()
    real = Float(low=low, high=low + width, step=step / 8)
    assert real.at(Random(seed).random()) in real.grid()


def test_a_log_draw_spreads_over_the_orders_of_magnitude() -> None:
    rng, distribution = Random(0), Float(low=1e-6, high=1, log=True)
    drawn = [distribution.at(rng.random()) for _ in range(600)]
    below = sum(isinstance(value, float) and value < 1e-3 for value in drawn)
    assert 240 < below < 360


def test_an_int_log_draw_reaches_both_ends() -> None:
    rng, distribution = Random(0), Int(low=1, high=4, log=True)
    assert {distribution.at(rng.random()) for _ in range(200)} == {1, 2, 3, 4}


def test_a_draw_of_the_space_is_the_same_for_the_same_seed() -> None:
    whole = space(a=Float(low=0, high=1), b=Categorical(choices=("x", None, True)))
    assert whole.draw(Random(3)) == whole.draw(Random(3)) != whole.draw(Random(4))


@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=4).map(".".join), VALUES, max_size=8))
def test_flat_parameters_nest_and_come_back(params: dict[str, Value]) -> None:
    groups = {name[:match] for name in params for match in _dots(name)}
    apart = {name: value for name, value in params.items() if name not in groups}
    assert flatten(nest(apart)) == apart


def _dots(name: str) -> list[int]:
    return [index for index, letter in enumerate(name) if letter == "."]


def test_nest_gives_the_shape_of_the_file_in_its_order() -> None:
    params: Params = {"training.lr": 0.1, "lora.r": 8, "training.batch": 4}
    assert nest(params) == {"training": {"lr": 0.1, "batch": 4}, "lora": {"r": 8}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(low=1, high=0), "min 1 is above max 0: swap them"),
        (lambda: Float(low=0, high=1, log=True), "min is 0: a logarithm needs a min above 0"),
        (lambda: Float(low=0, high=math.inf), "min and max must be finite numbers"),
        (lambda: Float(low=0, high=1, step=0), "step is 0: it must be above 0"),
        (lambda: Float(low=1, high=2, step=1, log=True), "log and step exclude each other"),
        (lambda: Int(low=5, high=4), "min 5 is above max 4: swap them"),
        (lambda: Int(low=0, high=4, log=True), "min is 0: a logarithm needs a min above 0"),
        (lambda: Int(low=0, high=4, step=0), "step is 0: it must be 1 or more"),
        (lambda: Categorical(choices=()), "values is empty: list at least one"),
        (lambda: Categorical(choices=("a", "a")), "value 'a' stands twice"),
    ],
)
def test_a_distribution_that_holds_nothing_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("choices", [(True, 1), (0, False), (1, 1.0)])
def test_choices_that_optuna_takes_for_one_are_refused(choices: tuple[bool | float, ...]) -> None:
    with pytest.raises(ValueError, match="stands twice, as"):
        Categorical(choices=choices)


def test_a_number_outside_or_a_word_is_not_in_a_range() -> None:
    whole, real = Int(low=1, high=9, step=2), Float(low=0, high=1)
    assert 3 in whole and 4 not in whole and True not in whole and 3.0 not in whole
    assert 1 in real and 1.1 not in real and True not in real and "0.5" not in real


@pytest.mark.parametrize(
    ("distribution", "text"),
    [
        (Float(low=1e-6, high=1e-4, log=True), "1e-06 to 0.0001 (log)"),
        (Float(low=0, high=1, step=0.25), "0 to 1 in steps of 0.25"),
        (Int(low=1, high=64, log=True), "1 to 64 (log)"),
        (Int(low=0, high=8, step=2), "0 to 8 in steps of 2"),
        (Categorical(choices=("a", None, 4)), "one of a, null, 4"),
    ],
)
def test_a_distribution_says_in_words_what_it_takes(distribution: Distribution, text: str) -> None:
    assert str(distribution) == text
