"""Corners of a search space: the few points that tell whether all of it fits into memory. Pure.

Whole numbers and lists of choices are varied: sizes, batches, layers, kinds of models. Real numbers
(learning rates, dropout, decay) take no memory, and stay at their lower end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpoctl.space import Categorical, Distribution, Float, Int, Params, SearchSpace, Value

SMALLEST, LARGEST = "smallest", "largest"
_BATCHES = ("batch_size", "per_device_train_batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corner:
    """A point of the space, and what is special about it."""

    name: str
    params: Params


def corners(space: SearchSpace, most: int) -> tuple[Corner, ...]:
    """At most so many corners, the largest one first, as it shows most.

    Then the smallest one; each choice that is no number, with all else at its largest; and each
    number at its largest alone.
    """
    found: list[Corner] = []
    for corner in _all(space):
        if corner.params not in [known.params for known in found]:
            found.append(corner)
    return tuple(found[:most])


def _all(space: SearchSpace) -> Iterator[Corner]:
    largest = {name: _largest(d) for name, d in space.parameters.items()}
    smallest = {name: _smallest(d) for name, d in space.parameters.items()}
    yield Corner(name=LARGEST, params=largest)
    yield Corner(name=SMALLEST, params=smallest)
    for name, distribution in space.parameters.items():
        if isinstance(distribution, Categorical) and not _numbers(distribution):
            for choice in distribution.choices:
                yield Corner(name=f"largest, {name} {choice}", params={**largest, name: choice})
    for name, value in largest.items():
        yield Corner(name=f"smallest, {name} {value}", params={**smallest, name: value})


def _numbers(distribution: Categorical) -> bool:
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in distribution.choices)


def _largest(distribution: Distribution) -> Value:
    match distribution:
        case Int():
            return distribution.grid()[-1]
        case Float():
            return distribution.low
        case Categorical():
            return _end(distribution, -1)


def _smallest(distribution: Distribution) -> Value:
    match distribution:
        case Int() | Float():
            return distribution.low
        case Categorical():
            return _end(distribution, 0)


def _end(distribution: Categorical, which: int) -> Value:
    """The least or greatest of numbers, the first of other choices."""
    if not _numbers(distribution):
        return distribution.choices[0]
    return sorted(c for c in distribution.choices if isinstance(c, int | float))[which]


def batch_parameter(space: SearchSpace) -> str | None:
    """The parameter that is the batch of one device, by its name."""
    for name in space.parameters:
        if name.split(".")[-1] in _BATCHES:
            return name
    return None


def doublings(first: int, most: int) -> tuple[int, ...]:
    """`first`, twice that, and so on, up to `most`."""
    batches = [first]
    while 2 * batches[-1] <= most:
        batches.append(2 * batches[-1])
    return tuple(batches)
