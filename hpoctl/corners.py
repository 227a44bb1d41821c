"""Corners of a search space: the few points that tell whether all of it fits into memory. Pure.

Whole numbers and lists of choices are varied: sizes, batches, layers, kinds of models. Real numbers
(learning rates, dropout, decay) take no memory, and stay at their lower end; so does how long a
training is, which is `shortened` at every corner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hpoctl.space import Categorical, Distribution, Float, Int, Params, SearchSpace, Value

SMALLEST, LARGEST = "smallest", "largest"
_BATCHES = ("batch_size", "per_device_train_batch_size")
_STEPS = ("max_steps", "steps")
_EPOCHS = ("max_epochs", "num_epochs", "num_train_epochs", "epochs")
_LENGTHS = frozenset(
    f"{group}{name}" for group in ("", "training.") for name in (*_STEPS, *_EPOCHS)
)  # not of any group: `diffusion.steps` is none


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
    largest, smallest = _at_end(space, -1), _at_end(space, 0)
    yield Corner(name=LARGEST, params=largest)
    yield Corner(name=SMALLEST, params=smallest)
    for name, distribution in space.parameters.items():
        if isinstance(distribution, Categorical) and not _numbers(distribution):
            for choice in distribution.choices:
                params = _at_end(space, -1, {name: choice})
                yield Corner(name=f"largest, {name} {choice}", params=params)
    for name, value in largest.items():
        params = _at_end(space, 0, {name: value})
        yield Corner(name=f"smallest, {name} {value}", params=params)


def _at_end(space: SearchSpace, which: int, known: Params | None = None) -> Params:
    """All parameters at one end of their values, but those known where they fit."""
    given = known or {}

    def choose(name: str, point: Params) -> Value:
        if name in given and space.fits(name, given[name], point):
            return given[name]
        if name in _LENGTHS:
            return _end(space.parameters[name], 0)
        if name in space.divides:
            return space.fitting(name, point)[which]
        return _end(space.parameters[name], which)

    return space.fill(choose)


def _numbers(distribution: Categorical) -> bool:
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in distribution.choices)


def _end(distribution: Distribution, which: int) -> Value:
    """The least or greatest whole number, the least real one, of other choices the first."""
    match distribution:
        case Int():
            return distribution.grid()[which]
        case Float():
            return distribution.low
        case Categorical() if _numbers(distribution):
            return sorted(c for c in distribution.choices if isinstance(c, int | float))[which]
        case Categorical():
            return distribution.choices[0]


def batch_parameter(space: SearchSpace) -> str | None:
    """The parameter that is the batch of one device, by its name."""
    for name in space.parameters:
        if name.split(".")[-1] in _BATCHES:
            return name
    return None


def shortened(tree: Mapping[str, object], steps: int, group: str = "") -> dict[str, object]:
    """Parameters or arguments, nested, with `steps` steps and one epoch where they say how long."""
    found: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found[name] = shortened(value, steps, f"{group}{name}.")
        elif f"{group}{name}" in _LENGTHS:
            found[name] = steps if name in _STEPS else 1
        else:
            found[name] = value
    return found


def doublings(first: int, most: int) -> tuple[int, ...]:
    """`first`, twice that, and so on, up to `most`."""
    batches = [first]
    while 2 * batches[-1] <= most:
        batches.append(2 * batches[-1])
    return tuple(batches)
