"""`search_space`, `start` and a sampler's `points` of a sweep file, as values.

Knows no YAML: `config` has read the file, and gives every complaint raised here its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from hpoctl.complaints import Complaint, Place, input_error
from hpoctl.space import (
    Categorical,
    Condition,
    Distribution,
    Float,
    Int,
    SearchSpace,
    SpaceError,
    Value,
)
from hpoctl.words import nearest

PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

# type in the file -> the distribution, what the type implies, and the keys that it takes
TYPES: dict[str, tuple[type[Distribution], dict[str, object], tuple[str, ...]]] = {
    "log_uniform": (Float, {"log": True}, ("min", "max")),
    "uniform": (Float, {}, ("min", "max", "step", "log")),
    "float": (Float, {}, ("min", "max", "step", "log")),
    "int": (Int, {}, ("min", "max", "step", "log")),
    "categorical": (Categorical, {}, ("values",)),
}
_OF_EVERY_TYPE = ("when", "divides", "prior")
_FIELDS = {"min": "low", "max": "high", "values": "choices"}  # the course text's word -> ours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    """A parameter as the file has it: the mapping, and where; the same of all `when` over it."""

    tree: Mapping[str, object]
    place: Place
    when: tuple[Place, ...]

    @property
    def name(self) -> str:
        return ".".join(str(key) for key in self.place[1:])


def read_space(tree: object) -> SearchSpace:
    """The search space. Raises Complaint."""
    root: Place = ("search_space",)
    given = {parameter.name: parameter for parameter in _walk(tree, root, ())}
    if not given:
        raise Complaint(root, "is empty: name at least one parameter")
    taken = {name: _distribution(parameter) for name, parameter in given.items()}
    try:
        return SearchSpace(
            taken,
            when={
                name: tuple(c for place in p.when for c in _conditions(tree, place, taken))
                for name, p in given.items()
                if p.when
            },
            divides={
                name: _other(str(p.tree["divides"]), (*p.place, "divides"), p.place[1:-1], taken)
                for name, p in given.items()
                if "divides" in p.tree
            },
            priors={
                name: _prior(p.tree["prior"], taken[name], (*p.place, "prior"))
                for name, p in given.items()
                if "prior" in p.tree
            },
        )
    except SpaceError as wrong:
        parameter = given[wrong.name]
        place = (*parameter.place, wrong.key)
        raise Complaint(parameter.when[-1] if wrong.key == "when" else place, str(wrong)) from wrong


def _walk(tree: object, place: Place, when: tuple[Place, ...]) -> Iterator[_Parameter]:
    if not isinstance(tree, Mapping):
        raise Complaint(
            place,
            "neither a group nor a parameter with a 'type'; fixed values go to objective_args",
        )
    if "when" in tree:
        if len(place) < 2:
            raise Complaint((*place, "when"), "the whole space is always there: leave it out")
        when = (*when, (*place, "when"))
    if isinstance(tree.get("type"), str):
        if len(place) < 2:
            raise Complaint((*place, "type"), "a parameter needs a name: write it one level deeper")
        yield _Parameter(tree=tree, place=place, when=when)
        return
    for key, branch in tree.items():
        if key == "when":
            continue
        if not PARAMETER_NAME.fullmatch(key):
            raise Complaint((*place, key), "a name is letters, digits, _ and -, a letter first")
        yield from _walk(branch, (*place, key), when)


def _conditions(tree: Any, place: Place, taken: Mapping[str, Distribution]) -> Iterator[Condition]:
    """What stands in a `when` at this place of the search space."""
    for key in place[1:]:
        tree = tree[key]
    if not isinstance(tree, Mapping) or not tree:
        raise Complaint(place, "should name parameters and their values, as in {method: lora}")
    for name, given in tree.items():
        other = _other(name, (*place, name), place[1:-2], taken)
        try:
            allowed = taken[other].grid()
        except ValueError:
            message = f"{other} is a continuous range, which has no values to wait for"
            raise Complaint((*place, name), message) from None
        values = tuple(given) if isinstance(given, list) else (given,)
        for value in values:
            if value not in allowed:
                message = f"{value!r} is not a value of {other}: {taken[other]}"
                raise Complaint((*place, name), message)
        if not values:
            raise Complaint((*place, name), "is empty: list at least one value")
        yield Condition(name=other, values=values)


def _other(word: str, place: Place, group: Place, taken: Mapping[str, Distribution]) -> str:
    """The parameter that a word means: in its own group, else in those around it, else in all."""
    for depth in range(len(group), -1, -1):
        name = ".".join((*map(str, group[:depth]), word))
        if name in taken:
            return name
    raise Complaint(place, f"'{word}' is not in the search space; {nearest(word, [*taken])}")


def _prior(value: Any, distribution: Distribution, place: Place) -> Value:
    if isinstance(value, list | dict) or value not in distribution:
        raise Complaint(place, f"is {value!r}, outside its range: {distribution}")
    prior: Value = value
    return prior


def _distribution(parameter: _Parameter) -> Distribution:
    tree, place = parameter.tree, parameter.place
    word = str(tree["type"])
    if word not in TYPES:
        raise Complaint((*place, "type"), f"unknown type '{word}'; {nearest(word, list(TYPES))}")
    kind, implied, keys = TYPES[word]
    types = get_type_hints(kind)
    fields: dict[str, Any] = dict(implied)
    for key, value in tree.items():
        if key in ("type", *_OF_EVERY_TYPE):
            continue
        field = _FIELDS.get(key, key)
        if field not in [_FIELDS.get(known, known) for known in keys]:
            hint = _nearest_key(key, [*keys, *_OF_EVERY_TYPE])
            raise Complaint((*place, key), f"unknown key; {hint}")
        if field in fields:
            raise Complaint((*place, key), "is given twice, under two names: keep one")
        given = tuple(value) if isinstance(value, list) else value
        try:
            fields[field] = TypeAdapter(types[field]).validate_python(given, strict=True)
        except ValidationError as wrong:
            raise Complaint((*place, key), _wrong_value(field, wrong)) from wrong
    for key in ("values",) if kind is Categorical else ("min", "max"):
        if _FIELDS[key] not in fields:
            raise Complaint(place, f"'{key}' is missing")
    try:
        return kind(**fields)
    except ValueError as wrong:
        raise Complaint(place, str(wrong)) from wrong


def read_points(sampler: Any, space: SearchSpace) -> Any:
    """A sampler as given, with the points of a manual list checked and made flat."""
    if not isinstance(sampler, Mapping) or not isinstance(sampler.get("points"), list):
        return sampler
    points = []
    for i, tree in enumerate(sampler["points"]):
        place: Place = ("sampler", "points", i)
        point = _point(tree, space, place)
        for name in space.parameters:
            if space.is_there(name, point) and name not in point:
                message = f"'{name}' is missing: a point names every parameter that it has"
                raise Complaint(place, message)
        points.append(point)
    return {**sampler, "points": points}


def read_starts(start: Any, space: SearchSpace) -> Any:
    """Start points as given, checked and made flat."""
    if not isinstance(start, list):
        return start
    points = [_point(tree, space, ("start", i)) for i, tree in enumerate(start)]
    for i, point in enumerate(points):
        for name, other in space.divides.items():
            if name in point and other not in point and space.is_there(other, point):
                message = f"'{name}' divides {other}: give that too"
                raise Complaint(("start", i), message)
    return points


def _point(tree: object, space: SearchSpace, place: Place) -> dict[str, Value]:
    """A point or a part of one, flat; what is in it is in its range, and may be there."""
    if not isinstance(tree, Mapping) or not tree:
        raise Complaint(place, "a point is a mapping, nested as the search space is")
    flat: dict[str, Any] = dict(_leaves(tree, ""))
    for name, value in flat.items():
        if name not in space.parameters:
            hint = nearest(name, list(space.parameters))
            raise Complaint(place, f"'{name}' is not in the search space; {hint}")
        if value not in space.parameters[name]:
            allowed = space.parameters[name]
            raise Complaint(place, f"'{name}' is {value!r}, outside its range: {allowed}")
    for name, value in flat.items():
        for condition in space.when.get(name, ()):
            if not condition.holds(flat):
                message = f"'{name}' is there only where {condition}: say so, or leave it out"
                raise Complaint(place, message)
        if not space.fits(name, value, flat):
            other = space.divides[name]
            raise Complaint(place, f"'{name}' is {value}, which does not divide {flat[other]}")
    return flat


def _leaves(tree: object, prefix: str) -> Iterator[tuple[str, object]]:
    if not isinstance(tree, Mapping):
        yield prefix.removesuffix("."), tree
        return
    for key, branch in tree.items():
        yield from _leaves(branch, f"{prefix}{key}.")


def _wrong_value(field: str, wrong: ValidationError) -> str:
    if field == "choices" and wrong.errors()[0]["loc"]:
        return "each value should be a number, a text, true, false or null"
    return input_error(wrong.errors()[0])


def _nearest_key(key: str, keys: Sequence[str]) -> str:
    """A hint among the keys of a type and their other names."""
    return nearest(key, [*keys, *(_FIELDS[known] for known in keys if known in _FIELDS)])
