"""Whatever is attached, and however its predecessors are cut up, one throttle holds over all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.throttle import Place, share


def place(name: str, at_once: int, *after: str) -> Place:
    return Place(name=name, at_once=at_once, after=after)


@pytest.mark.parametrize(
    ("places", "most", "expected"),
    [
        ([], 3, (3, ())),
        ([place("a", 2)], 3, (1, ())),
        ([place("a", 2), place("b", 1)], 3, (2, ("a",))),
        ([place("a", 2), place("b", 1), place("c", 2, "a")], 3, (2, ("c",))),
        # What follows is smaller than what runs: the rest of its place is not free yet.
        ([place("a", 3), place("b", 1, "a")], 3, (1, ("b",))),
        ([place("a", 2), place("b", 1), place("c", 1, "a", "b")], 3, (1, ("c",))),
    ],
)
def test_a_later_array_takes_what_is_free_or_the_place_of_one_that_nobody_follows(
    places: Sequence[Place], most: int, expected: tuple[int, tuple[str, ...]]
) -> None:
    assert share(places, most) == expected


def most_at_once(places: Sequence[Place]) -> int:
    """How many tasks may really run at a time, by trying all sets of arrays."""
    before: dict[str, set[str]] = {}
    for one in places:
        before[one.name] = {*one.after, *(x for name in one.after for x in before.get(name, ()))}

    def together(some: Sequence[Place]) -> bool:
        names = {one.name for one in some}
        return not any(before[one.name] & names for one in some)

    sets = (some for n in range(len(places) + 1) for some in itertools.combinations(places, n))
    return max(sum(one.at_once for one in some) for some in sets if together(some))


@st.composite
def rounds(draw: st.DrawFn) -> list[Place]:
    """Rounds of arrays side by side, or chains of arrays of unequal length, as they are planned."""
    found: list[Place] = []
    lanes = draw(st.integers(1, 3))
    if draw(st.booleans()):
        earlier: tuple[str, ...] = ()
        for turn in range(draw(st.integers(1, 3))):
            names = [f"r{turn}.{lane}" for lane in range(lanes)]
            found += [place(name, draw(st.integers(1, 3)), *earlier) for name in names]
            earlier = tuple(names)
        return found
    for lane in range(lanes):
        last: tuple[str, ...] = ()
        for turn in range(draw(st.integers(1, 3))):
            found.append(place(f"c{lane}.{turn}", draw(st.integers(1, 3)), *last))
            last = (found[-1].name,)
    return found


@given(places=rounds(), more=st.lists(st.integers(1, 4), max_size=4), room=st.integers(0, 3))
def test_the_throttle_holds_however_many_arrays_are_attached(
    places: list[Place], more: list[int], room: int
) -> None:
    most = most_at_once(places) + room
    for number, tasks in enumerate(more):
        at_once, after = share(places, most)
        places = [*places, place(f"attached-{number}", min(at_once, tasks), *after)]
        assert at_once >= 1
        assert most_at_once(places) <= most
