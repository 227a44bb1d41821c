"""Conditions, divisors and priors of a search space: grids stay exact, draws fit, circles end."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.space import (
    Categorical,
    Condition,
    Distribution,
    Float,
    Int,
    Params,
    SearchSpace,
    SpaceError,
    Value,
)

SEEDS = st.integers(0, 2**31 - 1)
ADAPTERS = SearchSpace(
    {
        "method": Categorical(choices=("full", "lora", "dora")),
        "r": Categorical(choices=(4, 8)),
        "rs": Categorical(choices=(True, False)),
        "lr": Int(low=1, high=5),
    },
    when={
        "r": (Condition(name="method", values=("lora", "dora")),),
        "rs": (Condition(name="r", values=(8,)),),
    },
)
HEADS = SearchSpace(
    {"heads": Categorical(choices=(4, 6, 8, 12)), "size": Categorical(choices=(16, 24, 96))},
    divides={"heads": "size"},
)


@st.composite
def conditional_spaces(draw: st.DrawFn) -> SearchSpace:
    """Up to six small parameters, some with conditions on others, in any order of the file."""
    names = [f"p{i}" for i in range(draw(st.integers(1, 6)))]
    given_: dict[str, Distribution] = {}
    when: dict[str, tuple[Condition, ...]] = {}
    for i, name in enumerate(names):
        low = draw(st.integers(0, 3))
        given_[name] = Int(low=low, high=low + draw(st.integers(0, 2)))
        others = draw(st.lists(st.sampled_from(names[:i]), max_size=2, unique=True)) if i else []
        if others:
            when[name] = tuple(
                Condition(
                    name=other,
                    values=tuple(draw(st.lists(st.sampled_from(given_[other].grid()), min_size=1))),
                )
                for other in others
            )
    shuffled = draw(st.permutations(names))
    try:
        return SearchSpace({name: given_[name] for name in shuffled}, when=when)
    except SpaceError:  # conditions that never hold together
        return SearchSpace(given_)


def by_force(space: SearchSpace) -> set[frozenset[tuple[str, Value]]]:
    """The cells of a grid, by leaving out of the full product what is not there."""
    cells = set()
    for values in product(*(d.grid() for d in space.parameters.values())):
        whole: Params = dict(zip(space.parameters, values, strict=True))
        cell = space.whole(whole)
        assert cell is not None
        cells.add(frozenset(cell.items()))
    return cells


@given(conditional_spaces())
def test_a_grid_has_every_possible_cell_once_and_is_counted_exactly(space: SearchSpace) -> None:
    cells = [frozenset(cell.items()) for cell in space.grid()]
    assert len(cells) == len(set(cells)) == space.size()
    assert set(cells) == by_force(space)


@given(conditional_spaces(), SEEDS)
def test_a_draw_is_a_cell_of_the_grid(space: SearchSpace, seed: int) -> None:
    drawn = space.draw(Random(seed))
    assert drawn in space.grid()
    assert space.whole(drawn) == drawn


@given(conditional_spaces(), SEEDS, st.data())
def test_a_point_with_a_value_too_few_is_not_whole(
    space: SearchSpace, seed: int, data: st.DataObject
) -> None:
    drawn = space.draw(Random(seed))
    gone = data.draw(st.sampled_from(sorted(drawn)))
    assert space.whole({name: v for name, v in drawn.items() if name != gone}) is None


def test_a_parameter_is_there_only_where_its_conditions_hold() -> None:
    assert [dict(cell) for cell in ADAPTERS.grid() if cell["lr"] == 1] == [
        {"method": "full", "lr": 1},
        {"method": "lora", "r": 4, "lr": 1},
        {"method": "lora", "r": 8, "rs": True, "lr": 1},
        {"method": "lora", "r": 8, "rs": False, "lr": 1},
        {"method": "dora", "r": 4, "lr": 1},
        {"method": "dora", "r": 8, "rs": True, "lr": 1},
        {"method": "dora", "r": 8, "rs": False, "lr": 1},
    ]
    assert ADAPTERS.size() == 7 * 5


def test_a_grid_is_counted_without_making_its_cells() -> None:
    digits = {f"d{i}": Int(low=0, high=9) for i in range(12)}
    last = Condition(name="d0", values=(0, 1, 2))
    assert SearchSpace(digits, when={"d11": (last,)}).size() == 3 * 10**11 + 7 * 10**10


def test_ten_thousand_cells_with_conditions_are_different() -> None:
    parameters: dict[str, Distribution] = {
        "switch": Categorical(choices=("on", "off")),
        **{name: Int(low=0, high=9) for name in "abcd"},
    }
    on = (Condition(name="switch", values=("on",)),)
    space = SearchSpace(parameters, when={"a": on, "b": on})
    cells = {tuple(cell.items()) for cell in space.grid()}
    assert len(cells) == space.size() == 10_000 + 100


def test_only_what_divides_is_a_cell() -> None:
    cells = [(cell["size"], cell["heads"]) for cell in HEADS.grid()]
    assert cells == [
        (16, 4), (16, 8), (24, 4), (24, 6), (24, 8), (24, 12), (96, 4), (96, 6), (96, 8), (96, 12),
    ]  # fmt: skip
    assert HEADS.size() == len(cells)


@given(SEEDS)
def test_what_is_drawn_divides(seed: int) -> None:
    drawn = HEADS.draw(Random(seed))
    assert drawn in HEADS.grid()
    assert HEADS.draw(Random(seed), {"size": 16})["heads"] in (4, 8)


def test_a_known_value_stays_in_a_draw_and_decides_what_is_there() -> None:
    assert "r" not in ADAPTERS.draw(Random(0), {"method": "full"})
    assert ADAPTERS.draw(Random(0), {"method": "lora", "r": 8})["r"] == 8


def test_priors_make_a_point_as_far_as_they_depend_on_priors_only() -> None:
    parameters, when = ADAPTERS.parameters, ADAPTERS.when
    all_of = SearchSpace(parameters, when=when, priors={"method": "lora", "r": 8, "lr": 2})
    assert all_of.prior_point() == {"method": "lora", "r": 8, "lr": 2}
    not_there = SearchSpace(parameters, when=when, priors={"method": "full", "r": 8})
    assert not_there.prior_point() == {"method": "full"}
    unknown = SearchSpace(parameters, when=when, priors={"r": 8, "lr": 2})
    assert unknown.prior_point() == {"lr": 2}
    assert ADAPTERS.prior_point() == {}
    heads = SearchSpace(HEADS.parameters, divides=HEADS.divides, priors={"heads": 12})
    assert heads.prior_point() == {}


def on(name: str, *values: Value) -> tuple[Condition, ...]:
    return (Condition(name=name, values=values),)


@pytest.mark.parametrize(
    ("when", "divides", "message"),
    [
        ({"a": on("b", 1), "b": on("a", 1)}, {}, "goes in a circle: .* depends on .* depends on"),
        ({"a": on("a", 1)}, {}, "goes in a circle: a depends on a"),
        ({"a": (*on("b", 1), *on("b", 2))}, {}, "never holds: b is 1, and b is 2"),
        ({"a": (*on("b", 1), *on("c", 1)), "b": on("c", 2)}, {}, "never holds: c is"),
        ({}, {"a": "x"}, "x is not made of whole numbers above 0"),
        ({}, {"zero": "a"}, "zero is not made of whole numbers above 0"),
        ({}, {"b": "seven"}, "no value of b divides seven 7: leave one of them out"),
    ],
)
def test_what_cannot_be_is_refused(
    when: dict[str, tuple[Condition, ...]], divides: dict[str, str], message: str
) -> None:
    parameters: dict[str, Distribution] = {
        "a": Int(low=1, high=3),
        "b": Int(low=2, high=3),
        "c": Int(low=1, high=2),
        "zero": Int(low=0, high=1),
        "seven": Categorical(choices=(6, 7)),
        "x": Float(low=0, high=1),
    }
    with pytest.raises(SpaceError, match=message):
        SearchSpace(parameters, when=when, divides=divides)
