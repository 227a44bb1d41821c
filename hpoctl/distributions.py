"""The values that one parameter may take. Knows neither YAML nor Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

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

    def at(self, share: float) -> Value:
        """The value at a share of the range, from 0 up to but not including 1."""
        if self.step is not None:
            return _at(self.grid(), share)
        if not self.log:
            return self.low + share * (self.high - self.low)
        return min(max(_between(self.low, self.high, share), self.low), self.high)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step is not None else 0.0
        return abs(steps - round(steps)) < 1e-8  # as Optuna takes it

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

    def at(self, share: float) -> Value:
        """The value at a share of the range, from 0 up to but not including 1."""
        if not self.log:
            steps = range(self.low, self.high + 1, self.step)
            return steps[int(share * len(steps))]
        drawn = _between(self.low - 0.5, self.high + 0.5, share)
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

    def at(self, share: float) -> Value:
        """The choice at a share of the list, from 0 up to but not including 1."""
        return _at(self.choices, share)

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return "one of " + ", ".join(word(choice) for choice in self.choices)


Distribution = Float | Int | Categorical


def word(value: Value) -> str:
    """A value as the sweep file has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at(values: tuple[Value, ...], share: float) -> Value:
    return values[int(share * len(values))]


def _between(low: float, high: float, share: float) -> float:
    """The number at a share of the orders of magnitude."""
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("min and max must be finite numbers")
    if low > high:
        raise ValueError(f"min {low:g} is above max {high:g}: swap them")
    if log and low <= 0:
        raise ValueError(f"min is {low:g}: a logarithm needs a min above 0")
