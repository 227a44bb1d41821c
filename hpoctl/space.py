"""The search space: which parameters there are and which values each may take.

Knows neither YAML nor Optuna. A parameter's name is its path in the sweep file joined by dots
(`training.learning_rate`); `nest` turns flat parameters back into the shape of the file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random

Value = None | bool | int | float | str
Params = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Float:
    """A real number from `low` to `high`, both included; `log` draws its order of magnitude."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step is {self.step:g}: it must be above 0")
        if self.step is not None and self.log:
            raise ValueError("log and step exclude each other: leave one out")

    def grid(self) -> tuple[Value, ...]:
        if self.step is None:
            if self.low == self.high:
                return (self.low,)
            raise ValueError("a continuous range has no grid: give it a step, or list the values")
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        cells = int((Decimal(str(self.high)) - low) / step) + 1
        return tuple(float(low + step * i) for i in range(cells))

    def draw(self, rng: Random) -> Value:
        if self.step is not None:
            return rng.choice(self.grid())
        if not self.log:
            return rng.uniform(self.low, self.high)
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        step = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}{step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Int:
    """A whole number from `low` to `high`, both included, in steps of `step`."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)
        if self.step < 1:
            raise ValueError(f"step is {self.step}: it must be 1 or more")
        if self.step != 1 and self.log:
            raise ValueError("log and step exclude each other: leave one out")

    def grid(self) -> tuple[Value, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def draw(self, rng: Random) -> Value:
        if not self.log:
            return rng.randrange(self.low, self.high + 1, self.step)
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(drawn), self.low), self.high)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return value in range(self.low, self.high + 1, self.step)

    def __str__(self) -> str:
        step = f" in steps of {self.step}" if self.step != 1 else ""
        return f"{self.low} to {self.high}{' (log)' if self.log else ''}{step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Categorical:
    """One of `choices`, in no order."""

    choices: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("values is empty: list at least one")
        seen: list[Value] = []
        for choice in self.choices:
            if choice in seen:  # as Optuna compares: it takes True for 1, and False for 0
                twin = seen[seen.index(choice)]
                also = "" if repr(twin) == repr(choice) else f", as {twin!r}"
                raise ValueError(f"value {choice!r} stands twice{also}")
            seen.append(choice)

    def grid(self) -> tuple[Value, ...]:
        return self.choices

    def draw(self, rng: Random) -> Value:
        return rng.choice(self.choices)

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join("null" if c is None else str(c) for c in self.choices)


Distribution = Float | Int | Categorical


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("min and max must be finite numbers")
    if low > high:
        raise ValueError(f"min {low:g} is above max {high:g}: swap them")
    if log and low <= 0:
        raise ValueError(f"min is {low:g}: a logarithm needs a min above 0")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The parameters of a sweep by dotted name, in the order of the file."""

    parameters: Mapping[str, Distribution]

    def size(self) -> int | None:
        """Number of cells of the grid, or None where a range is continuous."""
        try:
            return math.prod(len(d.grid()) for d in self.parameters.values())
        except ValueError:
            return None

    def grid(self) -> Iterator[Params]:
        """Every cell once, the last parameter turning fastest. Raises ValueError if continuous."""
        names = tuple(self.parameters)
        columns = [self.parameters[name].grid() for name in names]
        return (dict(zip(names, cell, strict=True)) for cell in itertools.product(*columns))

    def draw(self, rng: Random) -> Params:
        """One independent random point."""
        return {name: d.draw(rng) for name, d in self.parameters.items()}


def nest(params: Params) -> dict[str, object]:
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
