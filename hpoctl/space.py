"""The search space: which parameters there are, and which of them a trial has.

Knows neither YAML nor Optuna. A parameter's name is its path in the sweep file joined by dots
(`training.learning_rate`); `nest` turns flat parameters back into the shape of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from random import Random

from hpoctl.distributions import Categorical as Categorical
from hpoctl.distributions import Distribution as Distribution
from hpoctl.distributions import Float as Float
from hpoctl.distributions import Int as Int
from hpoctl.distributions import Params as Params
from hpoctl.distributions import Value as Value
from hpoctl.distributions import word


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Parameter `name` is there and has one of `values`."""

    name: str
    values: tuple[Value, ...]

    def holds(self, point: Params) -> bool:
        return self.name in point and point[self.name] in self.values

    def __str__(self) -> str:
        return f"{self.name} is {' or '.join(word(value) for value in self.values)}"


class SpaceError(ValueError):
    """What does not fit about a parameter: its name, the key to change, and how."""

    def __init__(self, name: str, key: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.key = key


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The parameters of a sweep by dotted name, in the order of the file.

    One that depends on others comes after them: it is there only where all its conditions in `when`
    hold, and its value divides that of another one that it names in `divides`, if that is there.
    `priors` are values believed to be good. Raises SpaceError.
    """

    parameters: Mapping[str, Distribution]
    when: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    divides: Mapping[str, str] = field(default_factory=dict)
    priors: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: self.parameters[name] for name in self._in_order()}
        object.__setattr__(self, "parameters", given)
        for name in self.when:
            self._refuse_never(name)
        for name, other in self.divides.items():
            self._refuse_indivisible(name, other)

    # Which parameters there are

    def is_there(self, name: str, point: Params) -> bool:
        """Whether a trial with this point, as far as it is known, has a parameter."""
        return all(condition.holds(point) for condition in self.when.get(name, ()))

    def fits(self, name: str, value: Value, point: Params) -> bool:
        """Whether a value goes with those that a point has already."""
        other = point.get(self.divides.get(name, ""))
        return not (isinstance(other, int) and isinstance(value, int)) or other % value == 0

    def fitting(self, name: str, point: Params) -> tuple[Value, ...]:
        """The values of a parameter with `divides` that go with a point."""
        return tuple(v for v in self.parameters[name].grid() if self.fits(name, v, point))

    def whole(self, point: Params) -> Params | None:
        """A point in the order of the file; None where it lacks what a trial with it needs."""
        try:
            return self.fill(lambda name, _: point[name])
        except KeyError:
            return None

    def fill(self, choose: Callable[[str, Params], Value]) -> Params:
        """A whole point: each parameter that is there is chosen in turn, by those before it."""
        point: dict[str, Value] = {}
        for name in self.parameters:
            if self.is_there(name, point):
                point[name] = choose(name, point)
        return point

    # Points

    def size(self) -> int | None:
        """Number of cells of the grid, or None where a range is continuous.

        Counts without making them: what matters of a cell is what later parameters depend on.
        """
        try:
            columns = {name: d.grid() for name, d in self.parameters.items()}
        except ValueError:
            return None
        last = {other: name for name in columns for other in self._needs(name)}
        cells: Mapping[tuple[tuple[str, Value], ...], int] = {(): 1}
        for name, column in columns.items():
            more: Counter[tuple[tuple[str, Value], ...]] = Counter()
            for known, count in cells.items():
                kept = tuple(pair for pair in known if last[pair[0]] != name)
                if not self.is_there(name, dict(known)):
                    more[kept] += count
                elif name in last:
                    for value in self._column(name, column, dict(known)):
                        more[(*kept, (name, value))] += count
                else:
                    more[kept] += count * len(self._column(name, column, dict(known)))
            cells = more
        return sum(cells.values())

    def grid(self) -> Iterator[Params]:
        """Every cell once, the last parameter turning fastest. Raises ValueError if continuous."""
        cells: Iterator[Params] = iter([{}])
        for name, distribution in self.parameters.items():
            cells = self._turn(cells, name, distribution.grid())
        return cells

    def _turn(
        self, cells: Iterable[Params], name: str, column: Sequence[Value]
    ) -> Iterator[Params]:
        for cell in cells:
            if self.is_there(name, cell):
                for value in self._column(name, column, cell):
                    yield {**cell, name: value}
            else:
                yield cell

    def _column(self, name: str, column: Sequence[Value], point: Params) -> Sequence[Value]:
        return self.fitting(name, point) if name in self.divides else column

    def draw(self, rng: Random, known: Params | None = None) -> Params:
        """One independent random point, with the values that are known."""
        shares = {name: rng.random() for name in self.parameters}
        return self.at(shares, known)

    def at(self, shares: Mapping[str, float], known: Params | None = None) -> Params:
        """The point at a share, from 0 to below 1, of each parameter's values; with those known."""
        given = known or {}

        def choose(name: str, point: Params) -> Value:
            if name in given:
                return given[name]
            if name not in self.divides:
                return self.parameters[name].at(shares[name])
            fitting = self.fitting(name, point)
            return fitting[int(shares[name] * len(fitting))]

        return self.fill(choose)

    def prior_point(self) -> Params:
        """The parameters with a prior, as far as they are there by the priors of others."""
        point: dict[str, Value] = {}
        for name in self.parameters:
            known = self.divides.get(name, name) in (*point, name)
            if name in self.priors and known and self.is_there(name, point):
                point[name] = self.priors[name]
        return point

    # What cannot be

    def _needs(self, name: str) -> list[str]:
        """The parameters that this one depends on."""
        others = [condition.name for condition in self.when.get(name, ())]
        return [*others, *([self.divides[name]] if name in self.divides else [])]

    def _in_order(self) -> list[str]:
        """All names in the order of the file, but none before one that it depends on."""
        try:
            TopologicalSorter({name: self._needs(name) for name in self.parameters}).prepare()
        except CycleError as wrong:
            circle = [str(name) for name in wrong.args[1]][::-1]
            key = "when" if circle[0] in self.when else "divides"
            how = " depends on ".join(circle)
            raise SpaceError(circle[0], key, f"goes in a circle: {how}") from None
        placed: dict[str, None] = {}

        def place(name: str) -> None:
            for other in self._needs(name):
                place(other)
            placed.setdefault(name)

        for name in self.parameters:
            place(name)
        return list(placed)

    def _refuse_never(self, name: str) -> None:
        """Refuses conditions that never hold together, with those of what they depend on."""
        allowed: dict[str, Condition] = {}
        for condition in self._all_conditions(name):
            before = allowed.setdefault(condition.name, condition)
            both = tuple(value for value in before.values if value in condition.values)
            if not both:
                message = f"never holds: {before}, and {condition}"
                raise SpaceError(name, "when", message)
            allowed[condition.name] = Condition(name=condition.name, values=both)

    def _all_conditions(self, name: str) -> Iterator[Condition]:
        for condition in self.when.get(name, ()):
            yield condition
            yield from self._all_conditions(condition.name)

    def _refuse_indivisible(self, name: str, other: str) -> None:
        """Refuses numbers that do not go together, whatever is chosen."""
        for one in (name, other):
            distribution = self.parameters[one]
            of = distribution.grid() if not isinstance(distribution, Float) else (None,)
            if not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in of):
                raise SpaceError(name, "divides", f"{one} is not made of whole numbers above 0")
        for value in self.parameters[other].grid():
            if not self.fitting(name, {other: value}):
                message = f"no value of {name} divides {other} {value}: leave one of them out"
                raise SpaceError(name, "divides", message)
        prior, theirs = self.priors.get(name), self.priors.get(other)
        if prior is not None and theirs is not None and not self.fits(name, prior, {other: theirs}):
            raise SpaceError(
                name, "prior", f"{prior} does not divide the prior of {other}, {theirs}"
            )


def nest(params: Mapping[str, object]) -> dict[str, object]:
    """Flat parameters in the shape of the sweep file: `{"a.b": 1}` becomes `{"a": {"b": 1}}`."""
    root: dict[str, object] = {}
    for name, value in params.items():
        *groups, leaf = name.split(".")
        branch = root
        for group in groups:
            child = branch.setdefault(group, {})
            assert isinstance(child, dict), f"{name}: a group and a parameter share a name"
            branch = child
        branch[leaf] = value
    return root
